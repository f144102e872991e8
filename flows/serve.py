"""Serve a policy to any OpenAI client: chat/completions, completions and models, streamed or not.

    make serve                                           the registry's models:/rlhf-policy@champion
    make serve MODEL=models:/rlhf-policy/3 PORT=9000
    python -m flows.serve my-run                         the policy of a run
    python -m flows.serve models/ppo --temperature 0     a model folder

    from openai import OpenAI
    client = OpenAI(base_url="http://127.0.0.1:8800/v1", api_key="any")
    client.chat.completions.create(model="rlhf-policy", messages=[{"role": "user", "content": "Hi"}])

Prompts are read and answers are sampled by the pipeline's own code, at the temperature and to the length of
the evaluation where a request does not say. The same request with the same seed gets the same text. The
model is loaded once: a champion that is promoted later is served after a restart.

Host and port are those of `serve` in services.yaml. Other machines need a key: set RLHF_API_KEY, which every
client must then send, and put a proxy with TLS in front.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import dataclasses
import os
import time
from collections.abc import Collection

from flows.policies import MODEL_HELP, NamedPolicy, named_policy
from flows.services.processes import running_environment
from flows.services.settings import load_config
from rlhf.data.errors import DataError
from rlhf.data.hosts import is_loopback
from tasks.runtime.errors import one_line_errors
from tasks.runtime.tracking import connect

CHAMPION = "models:/rlhf-policy@champion"
KEY = "RLHF_API_KEY"
GRACE = 30  # seconds that answers may still take when the server is told to stop


def serve(named: NamedPolicy, host: str, port: int, names: Collection[str] = (), at_once: int = 8) -> None:
    """Serve a policy until interrupted; prints the URL once the port is open.

    Told to stop (SIGTERM, Ctrl-C), it finishes the answers that have begun, for at most `GRACE` seconds.

    Args:
        named: the policy and its defaults.
        host: address to listen on.
        port: 0 takes a free one.
        names: host names under which the server is reached, besides those of the loopback interface.
        at_once: requests that are answered at the same time.

    Raises:
        DataError: other machines are let in without a key, the address is taken, or the model is unfit.
    """
    key = os.environ.get(KEY) or None
    if not (key or is_loopback(host)):
        raise DataError(
            f"host {host} lets other machines in, so clients need a key: set the environment variable {KEY}"
        )
    import uvicorn
    from transformers.utils.logging import disable_progress_bar

    from flows.serving.app import Served, create_app
    from flows.serving.engine import Engine
    from labeling.web.origin import SameOrigin
    from labeling.web.server import listen, run_until_interrupted
    from rlhf.models.policy import load_policy
    from tasks.graph import content_hash

    disable_progress_bar()
    listener = listen(host, port)
    engine = Engine(load_policy(named.folder), at_once)
    fingerprint = f"fp_{content_hash(named.folder)}"
    served = Served(named.names, fingerprint, named.temperature, named.longest, int(time.time()))
    shown = f"[{host}]" if ":" in host else host
    print(f"{named.name}: http://{shown}:{listener.getsockname()[1]}/v1  (stop with Ctrl-C)", flush=True)
    print(
        f"model={named.names[0]!r}, temperature {named.temperature:g}, at most {named.longest} tokens"
        f"{'' if named.evaluated else ' (nothing says how it was evaluated)'}",
        flush=True,
    )
    config = uvicorn.Config(
        SameOrigin(create_app(engine, served, key), names),
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    run_until_interrupted(config, listener)


def main(arguments: list[str] | None = None) -> None:
    """The command line; ends with exit code 1 and one line where a policy cannot be served."""
    with one_line_errors():
        config = load_config()
        parser = argparse.ArgumentParser(
            prog="python -m flows.serve",
            description=__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add = parser.add_argument
        add("model", nargs="?", default=CHAMPION, metavar="MODEL", help=f"{MODEL_HELP} (default {CHAMPION})")
        add("--host", default=config.host, help="address to listen on (default %(default)s)")
        port = config.serve.port
        add("--port", type=int, default=port, help="port (default %(default)s; 0 takes a free one)")
        add("--name", action="append", default=[], help="another host name of this server")
        add("--as", dest="called", metavar="NAME", help="what clients call the model")
        add("--temperature", type=float, help="for requests that do not say; 0 is greedy")
        add("--max-tokens", type=int, help="for requests that do not say")
        add("--at-once", type=int, default=8, help="requests answered at the same time (default 8)")
        options = parser.parse_args(arguments)
        for name, value in running_environment().items():
            os.environ.setdefault(name, value)
        if options.model.startswith("models:/"):
            connect()
        with named_policy(options.model) as named:
            serve(
                chosen(named, options.called, options.temperature, options.max_tokens),
                options.host,
                options.port,
                [*config.host_names(), *options.name],
                options.at_once,
            )


def chosen(
    named: NamedPolicy, called: str | None, temperature: float | None, longest: int | None
) -> NamedPolicy:
    """A policy with other defaults than those of its evaluation, or another name.

    Raises:
        DataError: a value that cannot be.
    """
    temperature = named.temperature if temperature is None else temperature
    longest = named.longest if longest is None else longest
    if not 0 <= temperature <= 2 or longest < 1:
        raise DataError(
            f"--temperature {temperature:g} and --max-tokens {longest}; use 0 to 2 and at least 1"
        )
    names = (called, *named.names) if called else named.names
    return dataclasses.replace(named, names=names, temperature=temperature, longest=longest)


if __name__ == "__main__":
    main()
