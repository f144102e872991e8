"""A bit that the disk flips in DVC's cache goes into no training: the stage that made the file runs again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from flow_repository import GRAPH, write_graph

from flows.dvc_process import Dvc, Ended


def flip_a_bit() -> None:
    """As a disk does it in the one file with an output: the times and the mode of the file stay."""
    [file] = [path for path in Path(".dvc/cache/files").rglob("*") if path.is_file()]
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-2] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
    file.chmod(before.st_mode)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("lock", ["there", "lost"])
def test_a_damaged_file_of_the_cache_is_made_again(small_repository: Path, lock: str) -> None:
    write_graph({"ingest": GRAPH["ingest"]})
    with Dvc() as dvc:
        assert dvc.repro("ingest", print) == Ended("Completed")
    flip_a_bit()
    Path("data/raw").unlink()
    if lock == "lost":  # then DVC's run cache knows the output
        Path("dvc.lock").unlink()
    with Dvc() as dvc:
        assert not dvc.unchanged("ingest")
        assert dvc.repro("ingest", print) == Ended("Completed")
    assert Path("data/raw").read_text() == "ingest\n"
    Path("data/raw").unlink()
    with Dvc() as dvc:
        assert dvc.unchanged("ingest")
    assert Path("data/raw").read_text() == "ingest\n"
