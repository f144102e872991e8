"""What parameters and data alone can tell is refused before anything trains, by every way of running."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Workspace, dvc
from flow_results import git
from own_rows import own, rankings, rows_of, settings

from flows.loop import main as feedback
from flows.run import main as rlhf
from flows.upfront import refuse, stages_up_to
from labeling.imports.label import ImportedLabel
from labeling.imports.storing import store_labels
from labeling.projects import add_project
from labeling.store import Store
from labeling.versions import cut_version
from rlhf.data.errors import DataError
from rlhf.settings import Scratch, Settings, SettingsError, load_settings
from rlhf.world.labelers import GROUPS as LABELER_GROUPS
from rlhf.world.labelers import pool
from tasks.runtime.errors import StageError
from tasks.runtime.preflight import PEOPLE, contradictions
from tasks.runtime.stage import refuse_contradictions

OWN: dict[str, Any] = {"ingest__source": "files", "ingest__path": "own"}
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "simulated labelers on own data": (OWN, "collect", "collect.labelers is simulated"),
    "given rankings of the built-in task": ({"collect__labelers": "given"}, "collect", "brings no rankings"),
    "a label store without a version": (
        {"collect__labelers": "store"},
        "collect",
        "collect.labels.version is not set",
    ),
    "own data told as chat": (OWN | {"ingest__chat": True}, "ingest", "by their messages: leave it out"),
    "chat for a tokenizer without a template": (
        {"ingest__chat": True},
        "base",
        "set base.template to chatml",
    ),
    "no labelers at all": ({"collect__groups": {}}, "collect", "collect.groups makes no labeler: give one"),
    "no labeler with a share": ({"collect__groups": {"expert": 0.0}}, "collect", "makes no labeler"),
    "more overlap than labelers": (
        {"collect__groups": {"expert": 0.425, "novice": 0.425, "spammer": 0.15}, "collect__overlap": 20},
        "collect",
        "collect.overlap is 20, but collect.groups makes 19 labelers",
    ),
    "labeler weights without a shared pool": (
        {"collect__shared": 0, "reward__labeler_weights": "dawid-skene"},
        "reward",
        "raise collect.shared",
    ),
    "a hidden preference on own data": (
        {**OWN, "collect__labelers": "given"},
        "evaluate",
        "gold and simulated, which judge the built-in task only",
    ),
    "a model judge without its share": (
        {"evaluate__judges": ["reward-model"]},
        "evaluate",
        "set prepare.judge_share above 0",
    ),
    "a language model without an address": (
        {"evaluate__judges": ["llm"], "evaluate__llm": {"model": "m"}},
        "evaluate",
        "evaluate.llm.url",
    ),
    "splits that take everything": (
        {"prepare__test_share": 0.5, "prepare__judge_share": 0.5},
        "prepare",
        "leave no prompt to train on",
    ),
    "a model on the Hub without a commit": (
        {"base": {"path": "owner/model"}},
        "base",
        "set base.revision to its whole hash; `git ls-remote https://huggingface.co/owner/model HEAD` prints",
    ),
    "a commit of a folder": (
        {"base": {"path": str(ROOT), "revision": "0" * 40}},
        "base",
        "is a folder, which has no revision",
    ),
    "a response as long as the context of a base from elsewhere": (
        {"base": {"path": str(ROOT), "context": 48}},
        "collect",
        "no room for a prompt in base.context, 48",
    ),
    "a response as long as the context": (
        {"ppo__response_length": 256},
        "ppo",
        "ppo.response_length is 256 tokens, which leaves no room",
    ),
    "an evaluated response as long as the context": (
        {"evaluate__response_length": 300},
        "collect",
        "evaluate.response_length is 300 tokens",
    ),
    "float32 of weights of 4 bits": (
        {"base": {"path": str(ROOT), "quantization": "4bit", "lora": {}}, "reward__precision": "fp32"},
        "reward",
        "reward.precision is fp32, and base.quantization 4bit computes in bf16",
    ),
    "mini-batches of a part of an episode": (
        {"ppo__mini_batches": 3},
        "ppo",
        "not divisible by ppo.mini_batches",
    ),
    "more processes than episodes": (
        {"ppo__batch_size": 2, "processes": 2, "ppo__mini_batches": 2},
        "ppo",
        "fewer than the 2 processes",
    ),
    "a batch that processes cannot share": ({"processes": 3}, "sft", "not divisible by 3 processes"),
    "warming up a value head": (
        {"ppo__value": "head", "ppo__value_warmup": 1},
        "ppo",
        "ppo.value_warmup needs a value network",
    ),
    "a penalty of no words": ({"ppo__reward_functions": {"banned_weight": 1}}, "ppo", "names no words"),
    "simulated experts on own data": (
        {**OWN, "collect__labelers": "given", "evaluate__judges": ["human"], "ppo__judge": "simulated"},
        "ppo",
        "ppo.judge is simulated",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_name_their_stage(case: str) -> None:
    changes, stage, said = CONTRADICTIONS[case]
    problems = contradictions(settings(**changes))
    assert (problems[0].stage, said in problems[0].text) == (stage, True), problems
    assert all("\n" not in problem.text for problem in problems)


def _with_a_commit(settings: Settings) -> Settings:
    """The settings with the commit of a base on the Hub, which a recipe leaves to its user."""
    base = settings.base
    if isinstance(base, Scratch) or base.revision:
        return settings
    return settings.model_copy(update={"base": base.model_copy(update={"revision": "0" * 40})})


def test_shipped_parameters_do_not_contradict_each_other() -> None:
    assert contradictions(Settings()) == []
    for path in (ROOT / "params.yaml", *(ROOT / "recipes").glob("*/params.yaml")):
        assert contradictions(_with_a_commit(load_settings(path))) == [], path


def test_the_simulated_labelers_are_those_of_the_world() -> None:
    for group in LABELER_GROUPS:
        assert Settings.model_validate({"collect": {"groups": {group: 1}}})
    for groups in (
        {"expert": 0.6, "novice": 0.3, "spammer": 0.1},
        {"expert": 1.0},
        {"expert": 1, "novice": 0.1},
    ):
        total = sum(groups.values())
        assert sum(round(PEOPLE * share / total) for share in groups.values()) == len(pool(groups))


def test_stages_up_to_one_are_those_that_it_depends_on(workspace: Workspace) -> None:
    assert stages_up_to("validate") == {"ingest", "prepare", "validate"}
    assert stages_up_to("sft") == {"ingest", "prepare", "validate", "base", "sft"}
    assert stages_up_to(None) == stages_up_to("register")
    with pytest.raises(StageError, match="until tests: no such stage; there are base, collect, evaluate"):
        stages_up_to("tests")


# ---- the ways of running ----


def test_the_commands_end_before_a_server_starts(
    repository: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_server() -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr("flows.run.prefect_api", no_server)
    monkeypatch.setattr("flows.loop.prefect_api", no_server)
    monkeypatch.setattr("flows.run.up_to_date", lambda _: False)
    git("commit", "--quiet", "--message", "start")
    own(repository, rows_of(60), rankings(60))
    data = ["--data", str(repository.path / "own"), "--set", "ingest.source=files"]
    for command, words, said in (
        (
            rlhf,
            [*data, "--set", "collect.labelers=simulated"],
            "simulated labelers know the built-in task only",
        ),
        (rlhf, [*data, "--set", "evaluate.judges=[gold]"], "gold, which judge the built-in task only"),
        (rlhf, ["--until", "nothing"], "until nothing: no such stage"),
        (feedback, [*data, "--set", "evaluate.judges=[gold]"], "gold, which judge the built-in task only"),
    ):
        with pytest.raises(SystemExit) as caught:
            command(words)
        assert caught.value.code == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert said in lines[0]


def test_a_partial_run_is_not_refused_for_what_it_does_not_reach(workspace: Workspace) -> None:
    own(workspace, rows_of(60), rankings(60))
    workspace.set({"collect.labelers": "simulated", "evaluate.judges": ["gold"]})
    assert refuse(load_settings(), "sft") == []
    with pytest.raises(
        SettingsError, match=r"simulated labelers .* \(and 1 more; `make doctor` lists them\)"
    ):
        refuse(load_settings())
    workspace.set({"evaluate.judges": ["reward-model"], "ppo.judge_tolerance": None})
    assert refuse(load_settings(), "evaluate", round_to_come=True) == []  # the round brings labels


def test_dvc_repro_is_refused_by_its_first_stage(
    repository: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.set({"collect.labelers": "given"})
    monkeypatch.delenv("RLHF_PARENT_RUN", raising=False)
    with pytest.raises(
        AssertionError, match=r"error: params.yaml: collect.labelers is given, and the built-in"
    ):
        dvc("repro", "ingest")
    assert not Path("data/raw").exists()
    refuse_contradictions(load_settings(), "ingest")  # by hand a stage answers for itself alone
    with pytest.raises(SettingsError, match=r"collect.labelers is given"):
        refuse_contradictions(load_settings(), "collect")
    monkeypatch.setenv("RLHF_PARENT_RUN", "a flow's")
    refuse_contradictions(load_settings(), "collect")


def test_what_is_named_must_be_there(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.set({"evaluate.judges": ["human"]})
    with pytest.raises(DataError, match=r"data/human: holds no judgments"):
        refuse(load_settings())
    workspace.set({"evaluate.judges": ["gold"], "ppo.reward_model": "given"})
    with pytest.raises(SettingsError, match=r"data/reward-model holds no model"):
        refuse(load_settings())
    Path("data/reward-model").mkdir(parents=True, exist_ok=True)
    Path("data/reward-model/config.json").write_text("{}")  # two labels are what transformers takes it to say
    with pytest.raises(SettingsError, match=r"ppo.reward_model is given, and .*the model has 2 labels"):
        refuse(load_settings())
    workspace.set({"ppo.reward_model": "trained", "processes": 2, "sft.accelerate": "gone.yaml"})
    with pytest.raises(DataError, match=r"sft.accelerate: no such file: gone.yaml"):
        refuse(load_settings())
    workspace.set({"processes": 1, "collect.labelers": "store", "collect.labels.project": "p"})
    workspace.set({"collect.labels.version": 1})
    url = f"sqlite:///{workspace.path / 'labels.db'}"
    monkeypatch.setenv("LABELING_DB", url)
    with pytest.raises(DataError):
        refuse(load_settings())  # there is no store
    store = Store(url)
    tie = ImportedLabel("compare", "q", ("a", "b"), {"ranking": [1, 1], "both_bad": False}, "ann")
    with store.write() as tx:
        add_project(tx, "p", "test")
        store_labels(tx, "p", [tie], "file", "test")
    with pytest.raises(DataError, match="no version 1"):
        refuse(load_settings())
    with store.write() as tx:
        cut_version(tx, "p", "test")
    store.close()
    with pytest.raises(DataError, match="1 ranking, and nothing but ties"):
        refuse(load_settings())


def test_bad_judgments_by_people_end_a_run_at_once_whoever_judges(workspace: Workspace) -> None:
    (workspace.path / "data/human/ann.csv").write_text(
        "prompt,reference,output,policy,preferred\np,r,o,ppo,me\n"
    )
    with pytest.raises(DataError, match=r"data/human/ann\.csv: row 1: preferred is 'me'"):
        refuse(load_settings())
