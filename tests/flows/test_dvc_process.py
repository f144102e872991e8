"""One process of DVC runs stage after stage, says how each ended, and ends with all that it started."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import PATIENCE
from flow_repository import GRAPH, write_graph

from flows.dvc_process import Dvc, Ended, readable


def commands(**stages: str) -> None:
    Path("dvc.yaml").write_text(
        yaml.safe_dump({"stages": {name: {"cmd": cmd} for name, cmd in stages.items()}})
    )


def test_a_progress_bar_does_not_flood_the_log() -> None:
    bar = b"".join(b"\r\x1b[32m%3d%%|##\x1b[0m" % percent for percent in range(100))
    raw = b"start\n" + bar + "\r100%|##…\n\n  \nloss 1.5\nlast".encode()
    assert list(readable(io.BytesIO(raw))) == ["start", "100%|##…", "loss 1.5", "last"]


def test_dvc_says_how_a_stage_ended(small_repository: Path) -> None:
    write_graph({"ingest": GRAPH["ingest"]})
    printed: list[str] = []
    with Dvc() as dvc:
        assert dvc.repro("ingest", printed.append) == Ended("Completed")
        assert printed == ["ingest: wrote data/raw"]  # DVC's own lines are left out
        printed.clear()
        assert dvc.repro("ingest", printed.append) == Ended("Up to date")
        Path("dvc.lock").unlink()
        Path("data/raw").unlink()
        assert dvc.repro("ingest", printed.append) == Ended("Restored")
        assert Path("data/raw").read_text() == "ingest\n"
        assert printed == []
        assert dvc.repro("ingest", printed.append, force=True) == Ended("Completed")
        assert printed == ["ingest: wrote data/raw"]
        ended = dvc.repro("nothing", printed.append)
        assert (ended.state, "nothing" in ended.error) == ("Failed", True)


def test_one_process_runs_stage_after_stage(small_repository: Path) -> None:
    commands(first="cat; echo first", bad="echo error: no; exit 3", again="echo $PPID > pid; kill -9 $PPID")
    printed: list[str] = []
    with Dvc() as dvc:
        assert dvc.repro("first", printed.append).state == "Completed"
        ended = dvc.repro("bad", printed.append)
        assert printed == ["first", "error: no"]
        assert ended.state == "Failed"
        assert ended.error.startswith("failed to reproduce 'bad': failed to run: echo error: no; exit 3")
        killed = Ended("Failed", f"DVC's process exited with {-signal.SIGKILL}")
        assert dvc.repro("again", printed.append) == killed
        assert not psutil.pid_exists(int(Path("pid").read_text()))
        printed.clear()
        assert dvc.repro("first", printed.append).state == "Completed"  # a new process
        assert printed == ["first"]


def test_an_exception_ends_the_stage_and_what_it_started(small_repository: Path) -> None:
    commands(sleep="python -c \"import os, time; print('pid', os.getpid(), flush=True); time.sleep(600)\"")
    started = []

    def read(line: str) -> None:
        if line.startswith("pid "):
            started.append(psutil.Process(int(line.split()[1])))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Dvc().repro("sleep", read)
    psutil.wait_procs(started, timeout=PATIENCE)
    assert not started[0].is_running() or started[0].status() == psutil.STATUS_ZOMBIE
