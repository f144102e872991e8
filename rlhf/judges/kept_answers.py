"""The file of a language model's answers, so that no answer is paid for twice.

Each answer is on disk, flushed and synced, before it is used: the file gets one line an answer, keyed by the
hash of all that was asked, and nothing in it is ever asked again. A run that was killed goes on where it
stood. What was on its way when the process died is asked again, under the same `Idempotency-Key`. An empty
reply (a model that ran out of tokens while it was thinking) counts for its run and is not kept.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from rlhf.data.errors import DataError


class KeptAnswers:
    """The file of answers, open for one process at a time, so that no two pay for the same answer.

    Attributes:
        path: the file; made where there is none.
        replies: key -> reply, as soon as the file is open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.replies: dict[str, str] = {}

    def __enter__(self) -> KeptAnswers:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise DataError(
                f"{self.path}: another run writes answers there; wait for it, or give another file"
            ) from None
        self._file.seek(0)
        raw = self._file.read()
        for line in raw.split(b"\n"):
            try:
                answer = json.loads(line)
                if answer["reply"].strip():
                    self.replies[answer["key"]] = answer["reply"]
            except (ValueError, LookupError, TypeError, AttributeError):
                continue  # a line that was torn when a run was killed: its answer is asked again
        if raw and not raw.endswith(b"\n"):
            self._write(b"\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, key: str, model: str, prompt_version: str, reply: str, tokens: int) -> None:
        """Keep an answer for good; an empty one for this run."""
        self.replies[key] = reply
        if not reply.strip():
            return
        answer = {"key": key, "model": model, "prompt": prompt_version, "reply": reply, "tokens": tokens}
        self._write(json.dumps(answer, ensure_ascii=True).encode() + b"\n")

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()
        os.fsync(self._file.fileno())
