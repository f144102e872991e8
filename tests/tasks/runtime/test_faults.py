"""What a machine lacks ends a command in one line that says what to do: disk, memory, tracking database."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
import torch
from conftest import Quiet
from mlflow.exceptions import MlflowException
from sqlalchemy import create_engine, text

from flows.stages import error_line
from rlhf.data.errors import DataError, Diverged
from rlhf.settings import load_settings
from rlhf.settings.loading import check_settings
from tasks.graph import stage_key, stages
from tasks.runtime.errors import StageError, one_line_errors
from tasks.runtime.faults import full_disk, machine_fault, memory_advice, refuse_bad_sqlite, tracking_fault
from tasks.runtime.stage import Stage, faults_of_stage, launch
from tasks.runtime.tracking import connect


def line_of(error: BaseException, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise error
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said.strip().removeprefix("error: ")


# ---- disks ----


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.ENOSPC, r"{}: the disk is full: [\d.,]+ [GM]B are free; make room on it, and run again"),
        (
            errno.EROFS,
            r"{} cannot be written: Read-only file system; let this user write there, and run again",
        ),
        (errno.EACCES, r"{} cannot be written: Permission denied; let this user write there, and run again"),
    ],
)
def test_a_disk_that_takes_nothing_is_one_line(tmp_path: Path, capsys, number: int, line: str) -> None:
    place = tmp_path / "state" / "mlartifacts"
    said = line_of(OSError(number, os.strerror(number), str(place)), capsys)
    assert re.fullmatch(line.format(place), said), said


def test_a_full_disk_that_names_no_file_is_the_one_with_the_least_room(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RLHF_STATE", str(tmp_path))
    monkeypatch.setattr("tasks.runtime.faults.free_bytes", lambda path: 0 if path == tmp_path else 10**9)
    said = machine_fault(OSError(errno.ENOSPC, "No space left on device"))
    assert said is not None
    assert said.startswith(f"{tmp_path}: the disk is full: ")


def test_the_words_for_a_full_disk_name_a_file_or_the_place_with_the_least_room_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.runtime.faults.free_bytes", lambda path: 0 if path == tmp_path else 10**9)
    for words, place in (("", tmp_path), (f": '{tmp_path}/ab/c1'", tmp_path / "ab/c1")):
        said = full_disk(f"[Errno 28] No space left on device{words}", Path.cwd(), tmp_path)
        assert said is not None
        assert said.startswith(f"{place}: the disk is full: ")
    assert full_disk("no such file", Path.cwd()) is None


def test_an_error_of_the_program_keeps_its_traceback() -> None:
    for error in (
        FileNotFoundError(errno.ENOENT, "No such file", "x"),
        RuntimeError("shapes differ"),
        KeyError(1),
    ):
        assert machine_fault(error) is None
        with pytest.raises(type(error)), one_line_errors(), faults_of_stage("sft"):
            raise error


# ---- the tracking database ----


def failing(database: Path) -> MlflowException:
    """What MLflow raises where its database cannot be read."""
    engine = create_engine(f"sqlite:///{database}", connect_args={"timeout": 0})
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT name FROM sqlite_master"))
    except Exception as error:
        wrapped = MlflowException(str(error))
        wrapped.__cause__ = error
        return wrapped
    raise AssertionError("it can be read")


def test_a_damaged_tracking_database_is_one_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RLHF_STATE", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(b"not a database" * 1000)
    line = rf"{tmp_path}/mlflow\.db: the tracking database is damaged \(file is not a database\); put a copy"
    before = mlflow.get_tracking_uri()
    with pytest.raises(DataError, match=line) as told:
        connect()
    mlflow.set_tracking_uri(before)
    assert "\n" not in str(told.value)


def test_a_locked_tracking_database_is_one_line(tmp_path: Path, capsys) -> None:
    holder = sqlite3.connect(tmp_path / "mlflow.db")
    holder.execute("BEGIN EXCLUSIVE")
    said = line_of(failing(tmp_path / "mlflow.db"), capsys)
    holder.close()
    assert said.endswith("another program keeps the tracking database locked; end it or wait, and run again")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "database or disk is full",
            "the disk of the tracking database is full; make room on it, and run again",
        ),
        ("attempt to write a readonly database", "cannot be written"),
        ("unable to open database file", "cannot be written"),
        ("database disk image is malformed", "is damaged"),
        ("no such table: runs", "cannot be used: no such table: runs"),
    ],
)
def test_what_sqlite_says_becomes_what_to_do(words: str, line: str) -> None:
    told = tracking_fault(MlflowException(f"(sqlite3.OperationalError) {words}\n[SQL: SELECT 1]"))
    assert told is not None
    assert line in told
    assert tracking_fault(MlflowException("no such run")) is None


def test_points_of_a_curve_that_the_store_refused_are_logged_again_at_the_end(monkeypatch) -> None:
    stored = []

    class Refused:
        def wait(self) -> None:
            raise MlflowException("database is locked")

    class Client:
        def log_batch(self, run_id, metrics, synchronous=None):
            if synchronous is False:
                return Refused() if metrics[0].step == 1 else None
            stored.extend((metric.key, metric.step, metric.value) for metric in metrics)

    monkeypatch.setattr("mlflow.MlflowClient", Client)
    monkeypatch.setattr("mlflow.flush_async_logging", lambda: None)
    stage = Stage("sft", load_settings(), key="test", run_id="run")
    for step in range(3):
        stage.log_curve({"loss": 1.0 - step}, step)
    stage.finish_curves()
    assert stored == [("loss", 0, 1.0), ("loss", 1, 0.0), ("loss", 2, -1.0)]
    stage.finish_curves()
    assert len(stored) == 3


# ---- memory ----

SHORT = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", SHORT, ids=lambda error: type(error).__name__)
def test_a_stage_without_memory_says_what_to_halve(error: Exception, workspace) -> None:
    with (
        pytest.raises(
            StageError, match=r"^ppo: out of memory \(.*\): halve ppo\.micro_batch_tokens, 1024 now; "
        ),
        faults_of_stage("ppo"),
    ):
        raise error


def test_the_setting_to_halve_is_one_that_the_stage_reads() -> None:
    settings = load_settings("params.yaml")
    for stage in ("base", "sft", "reward", "ppo", "collect", "evaluate"):
        key = memory_advice(stage, settings).split("halve ")[1].split(",")[0]
        declared = stages()[stage]["params"]
        assert any(key == name or key.startswith(f"{name}.") for name in declared), stage
    assert memory_advice("prepare", settings).startswith("end what else runs on this machine")


def test_a_model_of_elsewhere_computes_activations_twice_and_goes_on() -> None:
    base = {"type": "pretrained", "path": "x", "revision": None}
    settings = check_settings({"base": base}, "test")
    goes_on = (
        "set base.gradient_checkpointing to true, and the next run goes on from the last checkpoint; or halve"
    )
    assert memory_advice("sft", settings).startswith(goes_on)
    assert "halve" not in memory_advice("base", settings)


def test_smaller_parts_of_a_step_are_no_other_training(workspace, monkeypatch) -> None:
    monkeypatch.setattr("tasks.graph.stages", lambda: {"ppo": stages()["ppo"] | {"deps": []}})
    before = stage_key("ppo")
    workspace.set({"ppo.micro_batch_tokens": 512})
    assert stage_key("ppo") == before
    workspace.set({"ppo.batch_size": 32})
    assert stage_key("ppo") != before


def test_a_killed_process_is_told_as_such_by_stage_and_flow(workspace, monkeypatch) -> None:
    workspace.set({"processes": 2})
    monkeypatch.setattr(subprocess, "run", lambda *args, **more: subprocess.CompletedProcess(args, -9))
    stage = Quiet("sft", load_settings(), key="test", run_id="test")
    killed = r"sft: its process was killed \(signal 9\), by hand or because the machine had no memory left: "
    with pytest.raises(StageError, match=killed):
        launch(stage, lambda stage: None, None)
    said = error_line(
        "sft", ["step 3"], "failed to reproduce 'sft': failed to run: python -m tasks.sft, exited with -9"
    )
    assert said.startswith("sft: its process was killed (signal 9)")
    assert "halve sft.batch_size, 32 now" in said


def test_a_training_that_runs_away_says_which_rate_to_lower() -> None:
    with (
        pytest.raises(StageError, match=r"the loss is nan; lower sft\.learning_rate$"),
        faults_of_stage("sft"),
    ):
        raise Diverged("the loss is nan")


# ---- SQLite files, before a library opens them ----


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small database."""
    monkeypatch.setattr("tasks.runtime.faults.LOCKED_SECONDS", 0.05)
    path = tmp_path / "prefect.db"
    with closing(sqlite3.connect(path)) as opened, opened:
        opened.execute("CREATE TABLE a (b)")
        opened.executemany("INSERT INTO a VALUES (?)", [("x" * 1000,)] * 40)
    refuse_bad_sqlite(path, "the database")
    return path


def test_a_damaged_sqlite_file_is_refused_before_anything_opens_it(database: Path) -> None:
    whole = database.read_bytes()
    for damaged in (b"no database at all, but text" * 100, whole[: len(whole) // 2]):
        database.write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"prefect\.db: the database is damaged \(.*put a copy of it back"
        ):
            refuse_bad_sqlite(database, "the database")


def test_a_locked_sqlite_file_is_refused_before_anything_opens_it(database: Path) -> None:
    with closing(sqlite3.connect(database)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DataError, match="another program keeps the database locked"):
            refuse_bad_sqlite(database, "the database")


def test_what_a_killed_program_left_half_written_is_no_damage(database: Path) -> None:
    program = (
        "import os, sqlite3, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "d.execute('PRAGMA cache_size=1'); d.execute('BEGIN'); d.execute('UPDATE a SET b = zeroblob(900)')\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(database)], check=False)
    assert database.with_name("prefect.db-journal").exists()
    refuse_bad_sqlite(database, "the database")
    with closing(sqlite3.connect(database)) as opened:
        assert opened.execute("SELECT max(b) FROM a").fetchone()[0] == "x" * 1000


def test_a_tracking_server_that_is_away_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = MlflowException("API request to http://h:1/api failed with exception HTTPConnectionPool")
    assert line_of(error, capsys).startswith("MLflow's server does not answer at http://h:1/api; start it")
