"""The services' settings file, starting and stopping, and the pages of the runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
import pytest
import yaml
from conftest import PATIENCE, ROOT, free_port

from flows.machine import Record, start_of
from flows.run_state import RunState
from flows.services import processes as processes_of_services
from flows.services import settings as service_settings
from flows.services import up
from flows.services.catalogue import answers, services
from flows.services.processes import (
    Service,
    record_path,
    refuse_taken_port,
    running_environment,
    start,
    wait_until_well,
    why_it_ended,
)
from flows.services.settings import Config, load_config
from rlhf.data.errors import DataError
from rlhf.data.files import write_json


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLHF_STATE", str(tmp_path / ".state"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def test_the_settings_file_is_valid_and_holds_the_defaults() -> None:
    assert load_config(ROOT / "services.yaml") == Config()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prefect: {port: 99999}", "prefect.port: Input should be less than or equal to 65535"),
        ("prefekt: {port: 1}", "prefekt: Extra inputs are not permitted"),
        ("prefect: {port: 4200, database: 'postgresql://u:${NOT_SET_HERE}@h/d'}", "NOT_SET_HERE is not set"),
        ("prefect: [", "not valid YAML"),
    ],
)
def test_bad_settings_end_in_one_line(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "services.yaml").write_text(text)
    with pytest.raises(DataError, match=r"services\.yaml: ") as error:
        load_config(tmp_path / "services.yaml")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_password_comes_from_the_environment_and_is_in_no_command_line(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    stores = {"port": 1, "database": "postgresql://u:${SECRET}@h/d"}
    Path("services.yaml").write_text(yaml.safe_dump({"prefect": stores, "mlflow": dict(stores)}))
    started = {service.name: service for service in services(load_config())}
    prefect, mlflow = started["prefect"], started["mlflow"]
    assert prefect.env["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == "postgresql+asyncpg://u:s3cret@h/d"
    assert mlflow.env["MLFLOW_BACKEND_STORE_URI"] == "postgresql+psycopg://u:s3cret@h/d"
    assert not any("s3cret" in word for service in started.values() for word in service.command)


def test_up_starts_once_and_down_stops_exactly_that(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(pages=service_settings.Pages(port=free_port()))
    pages = next(service for service in services(config) if service.name == "pages")
    other = subprocess.Popen([*pages.command[:-1], str(free_port())])
    try:
        for _ in range(2):
            start(config, pages)
            wait_until_well(pages)
        [process] = [
            p for p in psutil.process_iter(["cmdline"]) if str(config.pages.port) in (p.info["cmdline"] or [])
        ]
        assert running_environment() == {"RLHF_PAGES": f"http://127.0.0.1:{config.pages.port}"}
        assert up.down() == ["pages"]
        assert not process.is_running()
        assert other.poll() is None
        assert up.down() == []
        assert running_environment() == {}
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("name", ["prefect", "mlflow", "label"])
def test_one_service_alone_has_the_port_and_the_store_of_the_settings(
    name: str, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port, store = free_port(), {"database": "postgresql://u:${SECRET}@h/d"}
    monkeypatch.setenv("SECRET", "s3cret")
    Path("services.yaml").write_text(yaml.safe_dump({name: {"port": port, **store}}))
    became: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda _, command, env: became.extend([command, env]))
    up.main(["serve", name])
    command, env = became
    assert command[command.index("--port") + 1] == str(port)
    assert any(value.endswith("://u:s3cret@h/d") for value in env.values())
    assert not any("s3cret" in argument for argument in command)
    assert f"{name}: http://127.0.0.1:{port}" in capsys.readouterr().out
    if name == "label":  # no server runs here to be asked
        assert "MLFLOW_TRACKING_URI" not in env


@pytest.mark.parametrize("name", ["prefect", "mlflow", "label"])
def test_make_starts_a_service_as_the_settings_say(name: str) -> None:
    title = subprocess.run(
        ["make", "-n", "-o", ".venv/.installed", name], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert title.rstrip().endswith(f"-m flows.services serve {name}")


def test_make_knows_a_state_folder_with_a_space_in_its_name() -> None:
    command = ["make", "-n", "-o", ".venv/.installed", "up", "RLHF_STATE=/a folder/state"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "RLHF_STATE='/a folder/state' " in printed


def test_a_number_that_another_process_has_now_is_not_stopped(state: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = start_of(psutil.Process(other.pid)) - 1000
        write_json(record_path("worker"), {"pid": other.pid, "started": started})
        assert up.down() == []
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_taken_port_and_a_service_that_ends_are_one_line(state: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = Config(pages=service_settings.Pages(port=taken.getsockname()[1]))
        with pytest.raises(
            DataError, match=r"pages: cannot listen on .* choose another port in services.yaml"
        ):
            refuse_taken_port(config, "pages")
    broken = Service("label", [sys.executable, "-c", "exit('error: no')"], {}, lambda: False)
    start(config, broken)
    with pytest.raises(DataError, match=r"label ended at once: error: no; its log: .*label\.log"):
        wait_until_well(broken)


@pytest.mark.parametrize(
    ("printed", "says"),
    [
        ("Traceback:\nsqlalchemy.exc.DatabaseError: file is not a database\nServer stopped!", "is damaged"),
        (
            "sqlite3.OperationalError: database is locked\nServer stopped!",
            "another program keeps its database locked",
        ),
        ("OSError: [Errno 28] No space left on device\nServer stopped!", "the disk is full"),
        (
            "[Errno 98] error while attempting to bind: address already in use\nbye",
            "its port is taken; choose",
        ),
        (
            "a\nValueError: no such thing\nb\n\nServer stopped!",
            "ValueError: no such thing | b | Server stopped!",
        ),
        ("", "it said nothing"),
    ],
)
def test_a_server_that_ended_says_why(printed: str, says: str, state: Path) -> None:
    log = state / "x.log"
    log.write_text("error: of the start before\n" + printed)
    said = why_it_ended(log, began=len("error: of the start before\n"))
    assert says in said
    assert said.endswith(f"; its log: {log}")
    assert "before" not in said
    assert "\n" not in said


def test_down_names_the_runs_that_it_cuts_and_how_to_go_on(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run under the worker, and one of a terminal that uses the same Prefect server."""
    monkeypatch.setattr(processes_of_services, "STOP_SECONDS", 0.05)  # the run's process hears no SIGTERM
    flow = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    processes = [
        subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
        for program in (flow, "import time; time.sleep(600)", "import time; time.sleep(600)")
    ]
    worker, prefect, terminal = map(psutil.Process, (process.pid for process in processes))
    try:
        while not worker.children():
            time.sleep(0.01)
        for name, process in {"worker": worker, "prefect": prefect}.items():
            write_json(record_path(name), {"pid": process.pid, "started": start_of(process)})
        for name, process in {"in-worker": worker.children()[0], "in-terminal": terminal}.items():
            RunState(name, began=0.0, stages=["a", "b"], ended=["a"]).save(Path(name))
            record = Record(name, name, socket.gethostname(), process.pid, start_of(process), "", name)
            write_json(Path(".state/runs", f"{name}.json"), asdict(record))
        up.main(["down"])
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    in_terminal, in_worker, stopped = capsys.readouterr().out.splitlines()
    assert in_worker.startswith("run 'in-worker' is stopped after a; after make up, a run with the same")
    assert in_terminal.startswith(
        f"run 'in-terminal' (process {terminal.pid}) loses Prefect's server after a"
    )
    assert stopped == "stopped: worker, prefect"


def test_pages_serve_reports_and_nothing_else(state: Path) -> None:
    for path in ("one/reports/report.html", "one/params.yaml", "one/reports/validation/prepared/index.html"):
        Path(".runs", path).parent.mkdir(parents=True, exist_ok=True)
        Path(".runs", path).write_text("content of " + path)
    Path(".runs/one/reports/out.html").symlink_to("../params.yaml")
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "flows.services.pages", "--port", str(port)])
    try:
        end = time.monotonic() + PATIENCE
        while not answers(f"http://127.0.0.1:{port}") and time.monotonic() < end:
            time.sleep(0.1)
        with urlopen(f"http://127.0.0.1:{port}/") as answer:
            index = answer.read().decode()
        assert 'href="one/reports/report.html"' in index
        assert 'href="one/reports/validation/prepared/index.html"' in index
        with urlopen(f"http://127.0.0.1:{port}/one/reports/report.html") as answer:
            assert answer.read() == b"content of one/reports/report.html"
        hidden = ["one/params.yaml", "one/reports/../params.yaml", "one/reports/%2e%2e/params.yaml", "one"]
        for path in [*hidden, "one/reports/", "one/reports/out.html", "../.state/x", "one/reports"]:
            with pytest.raises(HTTPError) as refused:
                urlopen(f"http://127.0.0.1:{port}/{path}")
            assert refused.value.code == 404, path
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
