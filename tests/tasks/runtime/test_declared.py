"""A stage can read the parameters that its entry in dvc.yaml declares, and no others."""

from __future__ import annotations

import pytest
import yaml
from conftest import ROOT, Workspace

from rlhf.data.errors import DataError
from rlhf.settings import Ppo, Settings, load_settings
from tasks.runtime import stage as context
from tasks.runtime.declared import Declared, UndeclaredParameter

SETTINGS = Settings()
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_what_is_declared_reads_as_ever() -> None:
    settings = Declared(SETTINGS, ["seed", "collect.labelers", "evaluate.llm.url", "ppo", "register"], "x")
    assert settings.seed == SETTINGS.seed
    assert settings.collect.labelers == SETTINGS.collect.labelers
    assert settings.evaluate.llm.url is None
    assert isinstance(settings.ppo, Ppo)  # a whole section can be passed on
    assert settings.ppo.model_dump() == SETTINGS.ppo.model_dump()
    assert settings.register_ == SETTINGS.register_


@pytest.mark.parametrize(
    ("read", "key"),
    [
        (lambda settings: settings.threads, "threads"),
        (lambda settings: settings.evaluate, "evaluate"),
        (lambda settings: settings.register_.min_rate, "register"),
        (lambda settings: settings.collect.groups, "collect.groups"),
        (lambda settings: settings.collect.labels.version, "collect.labels"),
        (lambda settings: getattr(settings, "threads", 1), "threads"),
    ],
)
def test_what_is_not_declared_names_stage_parameter_and_file(read: object, key: str) -> None:
    settings = Declared(SETTINGS, ["seed", "collect.labelers", "ppo"], "collect")
    with pytest.raises(UndeclaredParameter, match=rf"'collect' reads the parameter '{key}'.* dvc\.yaml"):
        read(settings)  # type: ignore[operator]


def test_what_changes_no_result_needs_no_declaration() -> None:
    settings = Declared(Settings(base={"path": "gpt2", "gradient_checkpointing": True}), ["reward"], "reward")
    assert settings.base.gradient_checkpointing
    with pytest.raises(UndeclaredParameter, match=r"'base\.path'"):
        settings.base.path  # noqa: B018


@pytest.mark.parametrize("stage", ["sft", "collect", "reward", "ppo", "evaluate"])
def test_a_model_folder_that_moved_retrains_nothing(stage: str, workspace: Workspace) -> None:
    base = {"type": "pretrained", "lora": None}
    workspace.set({"base": base | {"path": "here"}})
    before = context.stage_params(stage)
    workspace.set({"base": base | {"path": "there"}})
    assert context.stage_params(stage) == before


def test_a_name_that_is_no_parameter_is_a_plain_mistake() -> None:
    with pytest.raises(AttributeError):
        Declared(SETTINGS, ["seed"], "x").sead  # noqa: B018


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_sees_what_dvc_looks_at_and_nothing_else(name: str) -> None:
    declared = context.flat(context.stage_params(name))
    settings = context.stage_settings(name)
    for key in context.flat(load_settings().model_dump(by_alias=True)):
        value: object = settings
        try:
            for part in key.split("."):
                if isinstance(value, dict):
                    value = value[part]
                else:
                    value = getattr(value, "register_" if part == "register" else part)
        except UndeclaredParameter:
            assert key not in declared
        else:
            assert declared[key] == value


def test_the_length_of_candidates_is_a_parameter_of_collect(workspace: Workspace) -> None:
    before = context.stage_params("collect")
    workspace.set({"evaluate.response_length": 9})
    assert context.stage_params("collect") != before
    assert context.stage_settings("collect").evaluate.response_length == 9


def test_a_stage_run_as_a_command_ends_in_one_line(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit), context.one_line_errors():
        context.stage_settings("ingest").ppo  # noqa: B018
    printed = capsys.readouterr().err
    assert printed.startswith("error: stage 'ingest' reads the parameter 'ppo'")
    assert printed.count("\n") == 1


def test_an_error_that_quotes_a_model_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), context.one_line_errors():
        raise DataError("a tensor \x1b[2J, ünd 東京")
    assert capsys.readouterr().err == "error: a tensor \\x1b[2J, ünd 東京\n"
