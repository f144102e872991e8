"""A secret planted in the environment, services.yaml or a URL is on no command line, page or in a message."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT

from flows import links
from flows.run_state import RunState
from flows.services.catalogue import services
from flows.services.settings import load_config
from labeling.store import Store
from rlhf.data.errors import DataError
from rlhf.settings import SettingsError, load_settings

PLANTED = "planted-secret-of-the-operator"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLHF_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("A_PASSWORD", PLANTED)
    return tmp_path / "state"


def test_no_service_has_a_password_on_its_command_line(tmp_path: Path) -> None:
    """Every user of the machine can read command lines; the environment of a process only its owner can."""
    stores = {
        name: {"port": 4000 + number, "database": f"postgresql://u:${{A_PASSWORD}}@h/{name}"}
        for number, name in enumerate(("prefect", "mlflow", "label"))
    }
    written = {"host": "0.0.0.0", "names": ["rlhf.example.org"], "sign_in": "ann:${A_PASSWORD}", **stores}
    (tmp_path / "services.yaml").write_text(yaml.safe_dump(written))
    started = services(load_config(tmp_path / "services.yaml"))
    assert len(started) == 5
    for service in started:
        assert PLANTED not in " ".join(service.command), service.name
    assert sum(PLANTED in str(service.env) for service in started) == 5  # they were given it all the same


def test_a_worker_of_a_proxy_is_told_whom_to_trust(tmp_path: Path) -> None:
    (tmp_path / "services.yaml").write_text("names: [rlhf.example.org]")
    for path, behind in ((tmp_path / "services.yaml", True), (tmp_path / "none.yaml", False)):
        [label] = [service for service in services(load_config(path)) if service.name == "label"]
        assert ("--behind-proxy" in label.command) == behind


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{PLANTED}@127.0.0.1:1/x",
        f"postgresql://127.0.0.1:1/x?user=u&password={PLANTED}",
        f"postgresql://u:{PLANTED}@127.0.0.1:port/x",
        f"postgresql:/u:{PLANTED}@h/x?PASSWORD={PLANTED}",
        f"mysql://u:{PLANTED}@h/x",
    ],
)
def test_no_message_of_the_label_store_has_its_password(url: str) -> None:
    with pytest.raises(DataError) as error:
        Store(url)
    assert PLANTED not in str(error.value)


@pytest.mark.parametrize("url", [f"https://u:{PLANTED}@h.example/v1", f"https://h.example/v1?key={PLANTED}"])
def test_parameters_hold_no_secret_of_an_endpoint(url: str, tmp_path: Path) -> None:
    """They are in MLflow, in the form, in the report and in git."""
    values = load_settings().model_dump(by_alias=True, mode="json")
    values["evaluate"]["llm"]["url"] = url
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(SettingsError, match=r"evaluate\.llm\.url.*evaluate\.llm\.key_variable") as error:
        load_settings(tmp_path / "params.yaml")
    assert PLANTED not in str(error.value)


def test_a_link_to_mlflow_has_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links.mlflow, "get_tracking_uri", lambda: f"https://u:{PLANTED}@mlflow.example:5000")
    run = SimpleNamespace(info=SimpleNamespace(experiment_id="1"))
    monkeypatch.setattr(links.mlflow, "get_run", lambda _: run)
    shown = links.links(RunState("a-run", 0.0), "id", tmp_path)
    assert "(https://mlflow.example:5000/#/experiments/1/runs/id)" in shown
    assert PLANTED not in shown


def test_a_file_of_passwords_is_in_no_commit_of_a_run() -> None:
    """The experiment of a run holds the files of the checkout that git does not ignore."""
    names = [".env", ".env.local"]
    done = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == names


def test_an_error_in_services_yaml_does_not_show_what_was_put_in(tmp_path: Path) -> None:
    for text in (
        "sign_in: '${A_PASSWORD}'",
        "mlflow: {port: 1, database: ['${A_PASSWORD}']}",
        "prefect: {port: '${A_PASSWORD}'}",
        "label: {port: 1, secret: '${A_PASSWORD}'}",
    ):
        (tmp_path / "services.yaml").write_text(text)
        with pytest.raises(DataError) as error:
            load_config(tmp_path / "services.yaml")
        assert PLANTED not in str(error.value), text
