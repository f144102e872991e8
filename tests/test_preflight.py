"""What parameters and data alone can tell is refused before anything trains, by every way of running."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Workspace, dvc
from labeling import ROOT

from feedback import exports, imports, queues
from feedback.imports import Given
from feedback.store import Store
from flows.feedback import main as feedback
from flows.rlhf import main as rlhf
from flows.upfront import refuse, stages_up_to
from rlhf.contracts import TABLES, DataError, read_table
from rlhf.feasibility import best_lower_end, gate_warning, most_tokens, needed_prompts
from rlhf.policy import train_tokenizer
from rlhf.preflight import GROUPS, PEOPLE, cautions, contradictions
from rlhf.settings import Settings, SettingsError, check_settings, load_settings
from rlhf.statistics import wilson
from rlhf.world.labelers import GROUPS as LABELER_GROUPS
from rlhf.world.labelers import pool
from tasks.context import StageError, refuse_contradictions
from tasks.validate import refuse_infeasible

CASES = ROOT.parent / "shared" / "cases"


def settings(**changes: Any) -> Settings:
    """Settings with dotted keys (`__` for the dot) changed."""
    values: dict[str, Any] = {}
    for key, value in changes.items():
        *sections, last = key.split("__")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return check_settings(values, "test")


OWN: dict[str, Any] = {"ingest__source": "files", "ingest__path": "own"}
CONTRADICTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "simulated labelers on own data": (OWN, "collect", "collect.labelers is simulated"),
    "given rankings of the built-in task": ({"collect__labelers": "given"}, "collect", "brings no rankings"),
    "a label store without a version": (
        {"collect__labelers": "store"},
        "collect",
        "collect.labels.version is not set",
    ),
    "an unknown group": ({"collect__groups": {"robot": 1}}, "collect", "of the group robot"),
    "no labelers at all": ({"collect__groups": {}}, "collect", "makes 0 labelers"),
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
    "a format that is no pattern": (
        {"ppo__reward_functions": {"format_weight": 1, "format_pattern": "("}},
        "ppo",
        "no regular expression",
    ),
    "simulated experts on own data": (
        {**OWN, "collect__labelers": "given", "evaluate__judges": ["human"], "ppo__judge": "simulated"},
        "ppo",
        "ppo.judge is simulated",
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_name_their_stage(case: str) -> None:
    changes, stage, said = CONTRADICTIONS[case]
    found = contradictions(settings(**changes))
    assert (found[0].stage, said in found[0].text) == (stage, True), found
    assert all("\n" not in problem.text for problem in found)


def test_shipped_parameters_do_not_contradict_each_other() -> None:
    assert contradictions(Settings()) == []
    for path in (ROOT / "params.yaml", *(ROOT / "recipes").glob("*.yaml")):
        assert contradictions(load_settings(path)) == [], path


def test_the_simulated_labelers_are_those_of_the_world() -> None:
    assert GROUPS == LABELER_GROUPS
    for groups in (
        {"expert": 0.6, "novice": 0.3, "spammer": 0.1},
        {"expert": 1.0},
        {"expert": 1, "novice": 0.1},
    ):
        total = sum(groups.values())
        assert sum(round(PEOPLE * share / total) for share in groups.values()) == len(pool(groups))


def test_stages_up_to_one_are_those_that_it_depends_on(workspace: Workspace) -> None:
    assert stages_up_to("validate") == {"ingest", "prepare", "validate"}
    assert stages_up_to("sft") == {"ingest", "prepare", "validate", "pretrain", "sft"}
    assert stages_up_to(None) == stages_up_to("register")
    with pytest.raises(StageError, match="until tests: no such stage; there are collect, evaluate"):
        stages_up_to("tests")


# ---- data ----


def rows_of(number: int, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"question {i}", "completion": f"answer {i}", **more} for i in range(number)]


def rankings(number: int, ranking: tuple[int, ...] = (1, 2), **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"question {i}",
            "completions": ["good", "bad"],
            "ranking": list(ranking),
            "labeler_id": "ann",
            **more,
        }
        for i in range(number)
    ]


def prepared(workspace: Workspace) -> dict[str, list[dict[str, Any]]]:
    """The tables that `validate` reads."""
    for stage in ("ingest", "prepare"):
        workspace.stage(stage)
    return {name: read_table(f"data/prepared/{name}.parquet", contract) for name, contract in TABLES.items()}


def own(
    workspace: Workspace, demonstrations: list[dict[str, Any]], comparisons: list[dict[str, Any]]
) -> None:
    folder = workspace.path / "own"
    folder.mkdir(exist_ok=True)
    for name, rows in (("demonstrations", demonstrations), ("comparisons", comparisons)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    workspace.set({"ingest.source": "files", "ingest.path": str(folder), "collect.labelers": "given"})
    workspace.set(
        {"evaluate.judges": ["reward-model"], "prepare.judge_share": 0.2, "prepare.test_share": 0.2}
    )


def long_prompts(workspace: Workspace) -> None:
    own(workspace, [*rows_of(60), {"prompt": "word " * 230, "completion": "a"}], rankings(60))
    workspace.set({"model.context": 232})


def only_ties(workspace: Workspace) -> None:
    own(workspace, rows_of(60), rankings(60, (1, 1)))


def no_rows_for_the_judge(workspace: Workspace) -> None:
    own(workspace, rows_of(60), rankings(60))
    workspace.set({"prepare.judge_share": 0.0})


def ties_for_the_judge(workspace: Workspace) -> None:
    own(workspace, rows_of(60), rankings(40) + rankings(60, (1, 1))[40:])
    splits = ["test"] * 10 + ["validation"] * 5 + ["train"] * 25 + ["judge"] * 20
    rows = [row | {"split": split} for row, split in zip(rows_of(60), splits, strict=True)]
    (workspace.path / "own/demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def one_validation_prompt(workspace: Workspace) -> None:
    splits = ["test"] * 20 + ["validation"] + ["judge"] * 19 + ["train"] * 20
    own(workspace, [row | {"split": s} for row, s in zip(rows_of(60), splits, strict=True)], rankings(60))


def nothing_held_out(workspace: Workspace) -> None:
    own(workspace, rows_of(60), rankings(60))
    workspace.set({"prepare.test_share": 0.0})


INFEASIBLE: dict[str, tuple[Callable[[Workspace], None], str]] = {
    "prompts longer than the context": (
        long_prompts,
        "1 of 61 prompts are too long: model.context 232 leaves 220",
    ),
    "only ties": (only_ties, "no ranking in split train prefers one text to another, 60 of all 60"),
    "no rows for the model judge": (
        no_rows_for_the_judge,
        "split judge has no demonstrations and no rankings",
    ),
    "only ties for the model judge": (ties_for_the_judge, "split judge has no rankings with a preference"),
    "nothing held out": (nothing_held_out, "no demonstrations in split test: give rows a split"),
    "one prompt for the looks": (one_validation_prompt, "needs two prompts in split validation, there are 1"),
}


@pytest.mark.parametrize("case", INFEASIBLE)
def test_data_that_cannot_do_what_is_asked_is_refused_at_second_0_and_in_validate(
    case: str, workspace: Workspace
) -> None:
    plant, said = INFEASIBLE[case]
    plant(workspace)
    with pytest.raises(SettingsError) as caught:
        refuse(load_settings())
    assert said in str(caught.value)
    with pytest.raises(StageError) as late:
        refuse_infeasible(load_settings(), prepared(workspace), collected=False)
    assert said in str(late.value)
    assert "\n" not in str(caught.value) + str(late.value)


def test_the_stage_validate_refuses_rows_that_meet_every_rule(workspace: Workspace) -> None:
    only_ties(workspace)
    prepared(workspace)
    with pytest.raises(StageError, match="60 of all 60 rankings are ties"):
        workspace.stage("validate")
    assert not Path("metrics/validation.json").exists()


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_tokens_are_counted_by_the_tokenizer_that_pretraining_makes(
    tokenizer: str, workspace: Workspace
) -> None:
    """Signs are tokens too: a prompt of few words may still be too long."""
    prompt = "?!,.;" * 50 + " why"
    own(workspace, [*rows_of(60), {"prompt": prompt, "completion": "a"}], rankings(60))
    workspace.set({"model.tokenizer": tokenizer, "model.vocab_size": 300 if tokenizer == "bpe" else 1024})
    workspace.set({"ppo.response_length": 40, "evaluate.response_length": 40, "model.context": 256})
    refuse(load_settings())  # two words
    tables = prepared(workspace)
    if tokenizer == "word":
        said = "1 of 61 prompts are too long: .* has 251; set ppo.max_prompt_length to 216"
        with pytest.raises(StageError, match=said):
            refuse_infeasible(load_settings(), tables, collected=False)
    else:  # pairs of the signs are learnt from the corpus, which holds them often
        refuse_infeasible(load_settings(), tables, collected=False)
    workspace.set({"ppo.max_prompt_length": 216})
    refuse_infeasible(load_settings(), tables, collected=False)


def test_a_text_never_has_more_tokens_than_can_be_told_without_a_tokenizer() -> None:
    rng = random.Random(0)
    signs = "ab AB;:'r/\n\t.é_9 \u4e2d🙂"
    texts = ["".join(rng.choices(signs, k=rng.randint(1, 40))) for _ in range(2000)]
    for kind, size in (("word", 1024), ("bpe", 300)):
        encoded = train_tokenizer(texts[:50], kind, size)(texts, add_special_tokens=False)["input_ids"]
        pairs = [(len(ids), most_tokens(kind, text)) for ids, text in zip(encoded, texts, strict=True)]
        assert all(tokens <= most for tokens, most in pairs)
        assert any(tokens == most for tokens, most in pairs)


@pytest.mark.skipif(not CASES.exists(), reason=f"no cases at {CASES}")
def test_long_demonstrations_are_known_before_any_training(workspace: Workspace) -> None:
    own(workspace, rows_of(60), rankings(60))
    shutil.copyfile(CASES / "long.demonstrations.jsonl", workspace.path / "own/demonstrations.jsonl")
    with pytest.raises(
        SettingsError, match=r"4 of 64 prompts are too long: .* set ppo.max_prompt_length to 244"
    ):
        refuse(load_settings())


def test_a_judge_that_picks_what_it_judges_is_said(workspace: Workspace) -> None:
    own(workspace, rows_of(60), rankings(60))
    [line, _] = refuse(load_settings())
    assert "the judge reward-model picks PPO's checkpoint and judges it too" in line
    assert refuse(load_settings(), "ppo") == []
    workspace.set({"ppo.judge_tolerance": None})
    [gate] = refuse(load_settings())
    assert "the gate needs 200" in gate
    assert cautions(Settings()) == []


# ---- the gate ----


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_best_lower_end_is_the_best_of_all_outcomes(confidence: float) -> None:
    for n in range(1, 15):
        outcomes = (
            [1.0] * wins + [0.5] * ties + [0.0] * (n - wins - ties)
            for wins in range(n + 1)
            for ties in range(n - wins + 1)
        )
        best = max(wilson(points, confidence)[0] for points in outcomes)
        assert best_lower_end(n, confidence) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize(("rate", "least"), [(0.5, 4), (0.8, 14), (0.9, 29), (0.99, 284)])
def test_the_gate_needs_exactly_so_many_prompts(rate: float, least: int) -> None:
    asked = settings(register__min_rate=rate, register__min_prompts=1)
    assert needed_prompts(asked) == least
    assert best_lower_end(least, 0.95) > rate >= best_lower_end(least - 1, 0.95)
    assert needed_prompts(settings(register__min_rate=rate, register__min_prompts=300)) == 300
    assert needed_prompts(settings(register__min_rate=1.0)) is None


def test_a_gate_that_nothing_can_pass_is_said_with_the_number_needed(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate_warning(settings(), 1000) is None
    assert gate_warning(settings(), 200) is None
    assert "judges 199 prompts, the gate needs 200" in str(gate_warning(settings(), 199))
    assert "raise evaluate.prompts" in str(gate_warning(settings(evaluate__prompts=100), 500))
    assert "no interval lies above" in str(gate_warning(settings(register__min_rate=1.0), 500))

    workspace.set({"register.min_prompts": 21, "evaluate.prompts": 1000})
    assert refuse(load_settings()) == []
    workspace.set({"register.min_prompts": 41})
    [line] = refuse(load_settings())  # of the built-in posts the parameters say how many are held out
    assert "judges 40 prompts, the gate needs 41 (register.min_prompts 41" in line
    assert refuse(load_settings(), "evaluate") == []
    refuse_infeasible(load_settings(), prepared(workspace), collected=False)
    assert f"warning: {line}" in capsys.readouterr().out


# ---- the ways of running ----


def test_the_commands_end_before_a_server_starts(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_server() -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr("flows.rlhf.prefect_api", no_server)
    monkeypatch.setattr("flows.feedback.prefect_api", no_server)
    monkeypatch.setattr("flows.rlhf.up_to_date", lambda _: False)
    own(workspace, rows_of(60), rankings(60))
    data = ["--data", str(workspace.path / "own"), "--set", "ingest.source=files"]
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
    with pytest.raises(SettingsError, match=r"simulated labelers .* \(and 1 more\)"):
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
    with pytest.raises(DataError, match=r"data/reward-model holds no model"):
        refuse(load_settings())
    workspace.set({"ppo.reward_model": "trained", "processes": 2, "sft.accelerate": "gone.yaml"})
    with pytest.raises(DataError, match=r"sft.accelerate: no such file: gone.yaml"):
        refuse(load_settings())
    workspace.set({"processes": 1, "collect.labelers": "store", "collect.labels.project": "p"})
    workspace.set({"collect.labels.version": 1})
    url = f"sqlite:///{workspace.path / 'labels.db'}"
    monkeypatch.setenv("FEEDBACK_DB", url)
    with pytest.raises(DataError):
        refuse(load_settings())  # there is no store
    store = Store(url)
    tie = Given("compare", "q", ("a", "b"), {"ranking": [1, 1], "both_bad": False}, "ann")
    with store.write() as tx:
        queues.add_project(tx, "p", "test")
        imports.import_labels(tx, "p", [tie], "file", "test")
    with pytest.raises(DataError, match="no version 1"):
        refuse(load_settings())
    with store.write() as tx:
        exports.cut(tx, "p", "test")
    store.close()
    with pytest.raises(DataError, match="all 1 rankings are ties"):
        refuse(load_settings())
