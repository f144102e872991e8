"""Where a program's time goes: `python -m benchmarks.where FILE MODULE [ARGUMENT ...]`.

Runs the module as `python -m MODULE` would, and samples 50 times a second what its main thread is doing.
Writes FILE, JSON: kind -> seconds. The start and the end of Python itself are not in it. A stack belongs to
the first kind in `KINDS` that one of its calls belongs to.
"""

import json
import runpy
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

KINDS = {
    "import": ("<frozen importlib._bootstrap",),
    "logging": ("/site-packages/mlflow/",),
    "training": ("Trainer.train",),
    "models": (
        "/site-packages/torch/",
        "/site-packages/transformers/",
        "/rlhf/models/logprobs",
        "/rlhf/models/sampling",
    ),
}
REST = "data"  # reading, checking, tokenising, judging, drawing, writing
SECONDS = 0.02  # between two samples


def kind(frame: FrameType | None) -> str:
    """The kind of work that a stack is doing."""
    calls = []
    while frame:
        calls += [frame.f_code.co_filename, frame.f_code.co_qualname]
        frame = frame.f_back
    return next(
        (kind for kind, marks in KINDS.items() for mark in marks if any(mark in c for c in calls)), REST
    )


def watch(thread: int, seconds: Counter[str], stop: threading.Event) -> None:
    """Count what a thread does until `stop` is set."""
    last = time.monotonic()
    while not stop.wait(SECONDS):
        at_work = kind(sys._current_frames().get(thread))
        now = time.monotonic()
        seconds[at_work] += now - last
        last = now


def main(file: str, module: str, *arguments: str) -> None:
    """Run the module and write the seconds of each kind, also where it ends in an error."""
    seconds: Counter[str] = Counter()
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(threading.get_ident(), seconds, stop), daemon=True)
    watcher.start()
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        stop.set()
        watcher.join()
        Path(file).write_text(json.dumps(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
