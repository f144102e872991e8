"""Who is let in: foreign pages and hosts are refused by every server, and other machines need a password."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
import yaml
from conftest import PATIENCE, ROOT, free_port

from flows.services import processes, up
from flows.services import settings as service_settings
from flows.services.catalogue import services
from flows.services.guarded import authorization
from flows.services.processes import record_of, running_environment, start, wait_until_well
from flows.services.settings import load_config
from labeling.web.origin import foreign
from rlhf.data.errors import DataError

PASSWORD = "s3cret:words of a proxy"
HARMLESS = {  # reads that change nothing, one of them by the method that a hostile page would use
    "prefect": ("/api/flow_runs/count", b"{}"),
    "mlflow": ("/api/2.0/mlflow/experiments/search?max_results=1", None),
    "label": ("/login", None),
    "pages": ("/", None),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[service_settings.Config]:
    """All four servers, with a password where they ask for one."""
    folder = tmp_path_factory.mktemp("doors")
    ports = {name: {"port": free_port()} for name in HARMLESS}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RLHF_STATE", str(folder / ".state"))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("A_PASSWORD", PASSWORD)
        Path("services.yaml").write_text(yaml.safe_dump({"sign_in": "ann:${A_PASSWORD}", **ports}))
        config = load_config()
        wanted = [service for service in services(config) if service.name in HARMLESS]
        up.connect_locally()
        patch.setattr(processes, "START_SECONDS", PATIENCE)
        try:
            for service in wanted:
                start(config, service)
            for service in wanted:
                wait_until_well(service)
            yield config
        finally:
            up.down()


def status(config: service_settings.Config, name: str, headers: dict[str, str]) -> int:
    path, body = HARMLESS[name]
    headers = {"Content-Type": "application/json", **authorization(config.sign_in), **headers}
    try:
        with urlopen(Request(config.url(name) + path, body, headers), timeout=30) as answer:
            return answer.status
    except HTTPError as error:
        return error.code


@pytest.mark.parametrize("name", HARMLESS)
def test_foreign_pages_and_hosts_are_refused(name: str, served: service_settings.Config) -> None:
    port = getattr(served, name).port
    assert status(served, name, {}) == 200
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert status(served, name, {"Host": host, "Origin": f"http://{host}"}) == 200
    assert status(served, name, {"Origin": f"http://localhost:{port}"}) == 200
    other_port = f"http://127.0.0.1:{port % 60000 + 1}"  # the pages of runs show what models wrote
    for origin in ("https://evil.example", "null", other_port, f"http://127.0.0.1.evil.example:{port}"):
        assert status(served, name, {"Origin": origin}) == 403, origin
    for host in ("evil.example", f"evil.example:{port}", "192.0.2.7", "127.0.0.1@evil.example", "[", ""):
        assert status(served, name, {"Host": host}) == 403, host


@pytest.mark.parametrize("name", ["prefect", "mlflow", "pages"])
def test_a_password_is_asked_for(name: str, served: service_settings.Config) -> None:
    for wrong in ({"Authorization": ""}, authorization("ann:else")):
        assert status(served, name, wrong) == 401
    assert status(served, name, authorization(served.sign_in)) == 200


def test_a_foreign_page_opens_no_websocket(served: service_settings.Config) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    url = f"{served.url('prefect')}/api/events/out".replace("http", "ws")
    with connect(url, subprotocols=["prefect"]) as socket:  # type: ignore[list-item]
        socket.close()
    with pytest.raises(InvalidStatus):
        connect(url, subprotocols=["prefect"], origin="https://evil.example")  # type: ignore[list-item, arg-type]


def test_programs_find_the_password_in_their_environment(
    served: service_settings.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_PASSWORD", PASSWORD)
    monkeypatch.chdir(os.environ["RLHF_STATE"] + "/..")
    env = running_environment()
    program = (
        "import mlflow\nfrom prefect.client.orchestration import get_client\n"
        "print(len(mlflow.search_experiments()) > 0)\n"
        "with get_client(sync_client=True) as client: print(client.read_flow_runs())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **env}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "[]"]
    written = [
        path.read_text(errors="replace")
        for path in Path(".state").rglob("*")
        if path.suffix in (".json", ".log")
    ]
    assert written
    assert not any(PASSWORD in text for text in written)
    for service in services(served):
        process = psutil.Process(record_of(service.name)["pid"]) if service.name in HARMLESS else None
        for running in [process, *process.children(recursive=True)] if process else []:
            assert not any("s3cret" in word for word in running.cmdline())  # which everybody may read
    monkeypatch.delenv("A_PASSWORD")
    with pytest.raises(DataError, match="the environment variable A_PASSWORD is not set"):
        running_environment()


def test_no_other_user_can_look_into_what_the_services_keep(served: service_settings.Config) -> None:
    state = Path(os.environ["RLHF_STATE"])
    kept = [state, *state.rglob("*")]
    names = {path.name for path in kept}
    assert {"mlflow.db", "prefect.db", "labels.db", "label.log", "mlflow.json", "mlartifacts"} <= names
    open_ = [str(path) for path in kept if path.stat().st_mode & 0o077 and path.parent == state]
    assert open_ == []
    assert not [
        p for p in kept if p.stat().st_mode & 0o077 and p.suffix in (".db", ".log", ".db-wal", ".db-shm")
    ]


@pytest.mark.parametrize("name", ["prefect", "mlflow"])
def test_pages_connect_to_their_own_server_alone(name: str, served: service_settings.Config) -> None:
    """Prefect's pages would send what is clicked to an analytics service, whatever the server's settings."""
    with urlopen(Request(served.url(name), headers=authorization(served.sign_in))) as answer:
        [connect] = [
            part for part in answer.headers["Content-Security-Policy"].split("; ") if "connect" in part
        ]
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"
    allowed = connect.split()[1:]
    assert allowed[0] == "'self'"
    assert all(f":{getattr(served, name).port}" in origin for origin in allowed[1:])


def test_pages_say_what_a_browser_may_load(served: service_settings.Config) -> None:
    request = Request(served.url("pages"), headers=authorization(served.sign_in))
    with urlopen(request) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "script" not in policy
    assert "http" not in policy


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("host: 0.0.0.0", "host 0.0.0.0 lets other machines in"),
        ("host: rlhf.example.org", "host rlhf.example.org lets other machines in"),
        ("sign_in: ann:word", "sign_in: take the password from the environment"),
        ("sign_in: '${SECRET_WORD}'", "sign_in: String should match pattern"),
        ("sign_in: 'ann:${SECRET_WORD}'", "sign_in: the password needs at least 16 characters"),
    ],
)
def test_other_machines_are_not_let_in_without_a_password(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_WORD", "word")
    (tmp_path / "services.yaml").write_text(text)
    with pytest.raises(DataError) as error:
        load_config(tmp_path / "services.yaml")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_names_are_those_of_the_settings_and_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_WORD", "a word of sixteen")
    (tmp_path / "services.yaml").write_text(
        "host: 0.0.0.0\nnames: [rlhf.example.org]\nsign_in: 'ann:${SECRET_WORD}'"
    )
    names = load_config(tmp_path / "services.yaml").host_names()
    assert foreign("rlhf.example.org", "https://rlhf.example.org", names) is None
    assert foreign(f"{names[1]}:4200", f"http://{names[1]}:4200", names) is None
    assert foreign("evil.example", None, names)
    assert foreign("rlhf.example.org", "https://evil.example", names)
