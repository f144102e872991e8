"""Several clients, a full server, failures, keys, and the command that serves a folder."""

# pytest finds fixtures by the names of arguments:
# ruff: noqa: F401, F811

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from chat_policies import saved
from conftest import PATIENCE, ROOT
from openai import OpenAI
from served_policy import HI, ask, client, policy, running, server, streamed, wait_until

from flows.serve import main
from flows.serving.engine import Engine
from rlhf.models.policy import Policy
from rlhf.models.sampling import generate
from rlhf.models.template import as_row


def test_clients_do_not_wait_for_each_other(client: OpenAI) -> None:
    """A long answer has begun; a short one asked for later ends first, and both are as if asked alone."""
    alone = [ask(client, seed=seed, max_tokens=80, temperature=1.5) for seed in (1, 2)]
    long = ask(client, seed=1, max_tokens=80, temperature=1.5, stream=True)
    first = [next(long) for _ in range(3)]
    short = ask(client, seed=2, max_tokens=4, temperature=1.5)
    texts, _, _ = streamed([*first, *long])
    assert texts[0] == alone[0].choices[0].message.content
    assert alone[1].choices[0].message.content.startswith(short.choices[0].message.content.rstrip("\ufffd"))

    results: dict[int, str] = {}

    def work(seed: int) -> None:
        results[seed] = ask(client, seed=seed, max_tokens=15, temperature=1).choices[0].message.content

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = {seed: ask(client, seed=seed, max_tokens=15, temperature=1) for seed in range(8)}
    assert results == {seed: answer.choices[0].message.content for seed, answer in again.items()}


def test_sampling_ends_when_the_client_goes(running: tuple[OpenAI, Engine]) -> None:
    client, engine = running
    for stream in (True, False):
        before = engine.answered
        if stream:
            answer = ask(client, max_tokens=200, temperature=2, seed=6, stream=True)
            next(answer)
            answer.close()
        else:
            with pytest.raises(openai.APITimeoutError):
                ask(client, max_tokens=200, temperature=2, seed=6, timeout=0.05)
        time.sleep(0.3)
        wait_until(lambda: engine.idle)
        assert engine.answered - before < 190


def test_a_full_server_says_so(policy: Policy) -> None:
    with server(policy, at_once=1, waiting=1) as (client, _):
        streams = [ask(client, max_tokens=200, temperature=2, seed=6, stream=True)]
        assert [next(streams[0]) for _ in range(2)]  # it is not waiting any more
        streams.append(ask(client, max_tokens=200, stream=True))
        with pytest.raises(openai.RateLimitError) as refused:
            ask(client)
        assert refused.value.response.headers["retry-after"] == "1"
        for stream in streams:
            stream.close()


@pytest.mark.parametrize("kind", [RuntimeError, IndexError])
def test_a_failure_of_the_model_is_told_and_survived(
    kind: type[Exception], policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(policy) as (client, engine):
        begin = engine._begin

        def fail(job: Any) -> None:
            monkeypatch.setattr(engine, "_begin", begin)
            raise kind("out of memory at 0x7f")

        monkeypatch.setattr(engine, "_begin", fail)
        with pytest.raises(openai.InternalServerError) as failed:
            ask(client)
        assert "0x7f" not in str(failed.value)
        monkeypatch.setattr(engine, "_begin", fail)
        with pytest.raises(openai.APIError, match="could not answer"):
            list(ask(client, stream=True))
        assert ask(client, max_tokens=1).choices


def test_a_key_is_asked_for(policy: Policy) -> None:
    with server(policy, key="s3cret") as (client, _):
        for wrong in ("Bearer any", "Bearer s3cret2", "Bearer", "s3cret", "Bearer s3creté"):
            answer = httpx.get(f"{client.base_url}models", headers={"Authorization": wrong.encode()})
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            ask(client)
        assert ask(client.with_options(api_key="s3cret"), max_tokens=1).choices
        assert httpx.get(str(client.base_url).replace("/v1/", "/health")).text == "ok\n"


def test_the_command_serves_a_folder_until_it_is_told_to_stop(tmp_path: Path, policy: Policy) -> None:
    folder = saved(policy, tmp_path / "policy")
    words = ["-m", "flows.serve", str(folder), "--port", "0", "--as", "mine", "--temperature", "0"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, env=env, text=True, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        address = process.stdout.readline().split()[1]
        try:
            with OpenAI(base_url=address, api_key="any") as client:
                stream = client.chat.completions.create(
                    model="mine", messages=HI, stream=True, max_tokens=200, temperature=2, seed=6
                )
                first = [next(stream), next(stream)]
                process.send_signal(signal.SIGTERM)
                texts, reasons, _ = streamed([*first, *stream])  # what has begun is finished
                assert set(reasons) == {0}
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(PATIENCE)
    assert code in (0, -signal.SIGTERM)
    ours = generate(policy, [as_row(HI)], temperature=2, max_new_tokens=200, seed=6)
    assert texts[0] == ours[0]


def test_the_command_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], policy: Policy
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLHF_API_KEY", raising=False)
    folder = str(saved(policy, tmp_path / "policy"))
    capsys.readouterr()
    for words, said in (
        ([folder, "--host", "0.0.0.0"], "set the environment variable RLHF_API_KEY"),
        (["nothing-there"], "no registered version, no run and no model folder"),
        ([folder, "--temperature", "-1"], "use 0 to 2"),
        ([folder, "--host", "192.0.2.1"], "set the environment variable RLHF_API_KEY"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        errors = capsys.readouterr().err.splitlines()
        assert ended.value.code == 1
        assert len(errors) == 1, errors
        assert said in errors[0]
