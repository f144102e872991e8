"""Start the labeling app on this checkout's task, with the champion behind it.

    python -m flows.label [--port 8600]        or: make label

The first time it makes the project `built-in` with a guideline and one queue of each kind, filled with the
outputs that `collect` gathered, or, before the pipeline ran, with summaries by the built-in writers. `/ask`
answers with the registry's @champion; a newly promoted one takes over without a restart.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import argparse
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

from labeling.address import store_address
from labeling.candidates import Candidate, read_candidates
from labeling.first_operator import ensure_operator
from labeling.items import Filling, add_items
from labeling.projects import add_guideline, add_project, project_id
from labeling.queues import add_queue, queue_row
from labeling.schema import KINDS
from labeling.store import Store
from rlhf.data.errors import DataError
from tasks.runtime.errors import one_line_errors
from tasks.runtime.places import state_dir
from tasks.runtime.registry import CONVERSATIONS
from tasks.runtime.tracking import connect

PROJECT = "built-in"
COLLECTED = Path("data/comparisons/comparisons.parquet")
ITEMS = 300  # of each queue
WHO = "make label"
GUIDELINE = """A good summary of a post

1. It is right: every fact in it is in the post, and about the person who wrote it, not about others.
2. It covers the post: who, what was done, when, where, what it cost, how the writer feels, what they ask.
3. It is short and clear. No asides, nothing twice.

A wrong fact is worse than a missing one. If two summaries are equally good, say so: ties are welcome.
Skip what you cannot judge, and flag what an operator should see.
"""


class Champion:
    """The model `name`@champion of the MLflow registry as `answer(prompt, n)`; looked up at most every
    `every` seconds, loaded when it changed. `version` names what answered last; one that was judged on
    conversations is asked in a user's turn (`chat`)."""

    def __init__(self, name: str, every: float = 2.0) -> None:
        self.name, self.every = name, every
        self.version, self.chat = "", False
        self._model: Any = None
        self._looked = 0.0
        self._turn = threading.Lock()  # one answer at a time: a model fills the processor anyway
        self._asked = 0

    def __call__(self, prompt: str, n: int) -> list[str]:
        """`n` samples.

        Raises:
            DataError: no version is champion, its files are missing, or it refuses the prompt.
        """
        from mlflow.exceptions import MlflowException

        with self._turn:
            model = self._current()
            asked = [{"role": "user", "content": prompt}] if self.chat else prompt
            answers = []
            for _ in range(n):
                self._asked += 1
                try:
                    answers += model.predict([asked], params={"seed": self._asked})
                except MlflowException as error:  # such as one that is longer than its context
                    raise DataError(f"{self.version} refuses this: {error.message}") from None
            return answers

    def _current(self) -> Any:
        import mlflow
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        if self._model is None:
            connect()
        elif time.monotonic() - self._looked < self.every:
            return self._model
        try:
            champion = MlflowClient().get_model_version_by_alias(self.name, "champion")
            if self._model is None or self.version != f"{self.name}/{champion.version}":
                self._model = mlflow.pyfunc.load_model(f"models:/{self.name}/{champion.version}")
                self.version = f"{self.name}/{champion.version}"
                self.chat = champion.tags.get("prompts") == CONVERSATIONS
        except (MlflowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"no model is @champion of {self.name} yet, or it cannot be read: {reason}"
            ) from None
        self._looked = time.monotonic()
        return self._model


def fill(store: Store) -> None:
    """Make the project with a queue of each kind, unless it is there. A queue no row fits stays empty."""
    with store.read() as tx:
        try:
            project_id(tx, PROJECT)
            return
        except DataError:
            pass
    candidates = read_candidates(COLLECTED) if COLLECTED.exists() else written()
    with store.write() as tx:
        project = add_project(tx, PROJECT, WHO)
        add_guideline(tx, project, GUIDELINE, WHO)
        for kind in KINDS:
            add_queue(tx, project, kind, kind, WHO, overlap=2 if kind == "rank" else 1)
            row = queue_row(tx, PROJECT, kind)
            if kind == "compare":
                add_items(tx, row, onboarding(), Filling("onboarding"), WHO)
            filling = Filling(sampling="random", number=ITEMS, shared=0.15, repeats=0.05, seed=1)
            try:
                add_items(tx, row, candidates, filling, WHO)
            except DataError as error:  # rankings of one's own may have no references
                print(f"the queue {kind} stays empty: {error}", flush=True)


def written(number: int = ITEMS) -> list[Candidate]:
    """Posts of the built-in world, each with a summary by four writers; the careful one's is the
    reference."""
    from rlhf.world.posts import draw_post
    from rlhf.world.writers import WRITERS, write

    rng, candidates = random.Random("label"), list[Candidate]()
    while len(candidates) < number:
        post = draw_post(rng, 0.2)
        texts = {name: write(post, rng, name)[0].strip() for name in WRITERS}
        if len(set(texts.values())) == len(texts):
            candidates.append(
                Candidate(post.text, tuple(texts.values()), tuple(texts), texts["careful"], source="built-in")
            )
    return candidates


def onboarding() -> list[Candidate]:
    """Three posts, each with a right and a wrong summary; the labeler is told at once which is right."""
    from rlhf.world.posts import draw_post
    from rlhf.world.writers import render

    rng, candidates = random.Random("onboarding"), list[Candidate]()
    while len(candidates) < 3:
        post = draw_post(rng, 1.0)
        wrong = {kind: post.decoys.get(kind, value) for kind, value in post.facts.items()}
        right, other = render(post.facts, rng), render(wrong, rng)
        if right != other:
            slips = [(post.facts[kind], told) for kind, told in wrong.items() if told != post.facts[kind]]
            why = "The worse summary tells another person's story:\n" + "\n".join(
                f"- it says {told!r}; the post says {true!r} about its writer" for true, told in slips
            )
            candidates.append(
                Candidate(
                    post.text,
                    (right, other),
                    ("right", "wrong"),
                    expected={"ranking": [1, 2]},
                    explanation=why,
                    source="built-in",
                )
            )
    return candidates


def stop_at_eof() -> None:
    """Stop this process when its standard input ends."""
    while os.read(0, 1024):  # not sys.stdin: a thread that waits in it is an error when Python ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.label",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8600, help="port (default 8600; 0 takes a free one)")
    parser.add_argument("--name", action="append", default=[], help="another host name of this server")
    parser.add_argument("--behind-proxy", action="store_true", help="trust X-Forwarded-For and -Proto")
    parser.add_argument(
        "--model", default="rlhf-policy", help="registered model whose @champion answers /ask"
    )
    parser.add_argument(
        "--until-eof",
        action="store_true",
        help="also stop when standard input ends: when the program that started this one is gone",
    )
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args()
    with one_line_errors(arguments.traceback):
        from labeling.web.server import serve

        if arguments.until_eof:
            threading.Thread(target=stop_at_eof, daemon=True).start()
        store = Store(store_address(state_dir()))
        fill(store)
        ensure_operator(store)
        serve(
            store,
            arguments.host,
            arguments.port,
            answer=Champion(arguments.model),
            proxy=arguments.behind_proxy,
            names=arguments.name,
        )


if __name__ == "__main__":
    main()
