"""Runs stages through DVC, one after another in one process; flows/dvc_process.py starts it as a program.

A line of standard input names a stage: {"stage": "sft", "force": false}. After it the program prints a line
that opens with its own argument, a word that no stage knows, and goes on with how the stage ended:
{"state": "Completed", "error": ""}. Everything before that line is the stage's own output.
"""

import json
import logging
import os
import sys
import traceback
from functools import cache

from dvc.exceptions import DvcException
from dvc.logger import set_loggers_level
from dvc.repo import Repo
from dvc.stage.cache import StageCache
from dvc_data.hashfile.db.local import LocalHashFileDB
from dvc_data.hashfile.hash import hash_file
from dvc_objects.errors import ObjectFormatError


@cache
def verify_cache() -> None:
    """Have DVC hash each file of its cache once in this process before it takes the file out.

    By itself it trusts every file there that is read-only, as all are: a bit that a disk has flipped in a
    model would go into the next training. A damaged file is removed, and the stage that made it runs again.
    """
    trusting, whole = LocalHashFileDB.check, set()

    def check(self, oid, check_hash=True, _info=None):
        path = self.oid_to_path(oid)
        if check_hash and path not in whole:
            _, actual = hash_file(path, self.fs, self.hash_name)  # without DVC's record of hashes by time
            if str(actual.value).split(".")[0] != oid.split(".")[0]:
                self.fs.remove(path)
                raise ObjectFormatError(f"{path} is damaged")
            whole.add(path)
        return trusting(self, oid, check_hash, _info)

    LocalHashFileDB.check = check  # type: ignore[method-assign]


class NotingCache(StageCache):
    """DVC's run cache; notes whether it restored the outputs of a stage, which DVC only logs."""

    restored = False

    def restore(self, stage, **options):
        """Restore a stage or raise, as DVC's own does."""
        super().restore(stage, **options)
        self.restored = True


def reproduce(name: str, force: bool) -> dict[str, str]:
    """Run a stage unless nothing has changed; its state in Prefect, and DVC's error where it failed."""
    try:
        with Repo(_wait_for_lock=True) as repo:
            repo.stage_cache = cache = NotingCache(repo)
            changed = repo.reproduce(name, single_item=True, force=force)
    except Exception as error:
        if not isinstance(error, DvcException):  # it is no failure that DVC foresees
            traceback.print_exc()
        causes: list[str] = []
        cause: BaseException | None = error
        while cause:
            causes.append(str(cause) or type(cause).__name__)
            cause = cause.__cause__
        return {"state": "Failed", "error": ": ".join(causes)}
    return {"state": "Restored" if cache.restored else "Completed" if changed else "Up to date", "error": ""}


if __name__ == "__main__":
    orders = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a stage that reads must not take the next order
    verify_cache()
    with set_loggers_level(logging.WARNING):
        for order in map(json.loads, orders):
            ended = reproduce(order["stage"], order["force"])
            print(f"\n{sys.argv[1]} {json.dumps(ended)}", flush=True)
