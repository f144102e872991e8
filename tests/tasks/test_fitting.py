"""Rows that the context cannot hold: refused before any training, dropped, or cut in every table alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Workspace
from own_rows import own, rankings, rows_of, settings

from rlhf.data.contracts import COMPARISON, DEMONSTRATION, PROMPT, row_id
from rlhf.data.table import read_table, write_table
from tasks.fitting import suspects
from tasks.rules.view import views
from tasks.runtime.errors import StageError

TABLES = {"demonstrations": DEMONSTRATION, "comparisons": COMPARISON, "prompts": PROMPT}
LONG = "start " + "word " * 230 + "end?"


def long_data(workspace: Workspace, **more: Any) -> None:
    comparison = {"prompt": LONG, "completions": ["good", "bad"], "ranking": [1, 2], "labeler_id": "ann"}
    own(workspace, [*rows_of(60), {"prompt": LONG, "completion": "a"}], [*rankings(60), comparison | more])
    workspace.set({"base.context": 232, "ppo.response_length": 12, "evaluate.response_length": 12})


def stages(workspace: Workspace) -> dict[str, Any]:
    for stage in ("ingest", "prepare"):
        workspace.stage(stage)
    workspace.stage("validate")
    return json.loads(Path("metrics/prepare.json").read_text())


def test_they_are_refused_unless_params_say_otherwise(workspace: Workspace) -> None:
    long_data(workspace)
    with pytest.raises(StageError, match=r"1 of 61 prompts are too long: .* leaves 220"):
        stages(workspace)


def test_they_are_dropped_from_every_table_and_counted(workspace: Workspace) -> None:
    long_data(workspace)
    workspace.set({"prepare.too_long": "drop"})
    figures = stages(workspace)
    assert figures["too_long"] == {"how": "drop", "demonstrations": 1, "comparisons": 1, "prompts": 1}
    assert sum(split["rows"] for split in figures["comparisons"].values()) == 60
    for name, contract in TABLES.items():
        prompts = read_table(f"data/prepared/{name}.parquet", contract).column("prompt").to_pylist()
        assert LONG not in prompts


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_plain_prompts_lose_their_start_alike(tokenizer: str, workspace: Workspace) -> None:
    long_data(workspace, completions=["good " * 30, "bad"])
    workspace.set({"prepare.too_long": "cut", "base.tokenizer": tokenizer, "base.vocab_size": 300})
    figures = stages(workspace)
    assert figures["too_long"] == {"how": "cut", "demonstrations": 1, "comparisons": 1, "prompts": 1}
    left = set()
    for name, contract in TABLES.items():
        rows = [
            row for row in read_table(f"data/prepared/{name}.parquet", contract) if "end?" in row["prompt"]
        ]
        assert [row["id"] for row in rows] == [row_id(contract, row) for row in rows]
        left |= {row["prompt"] for row in rows}
    (prompt,) = left
    assert LONG.endswith(prompt)
    if tokenizer == "word":  # the longest answer has 31 tokens with its end, and "end?" has two
        assert len(prompt.split()) + 1 == 232 - 31


def test_an_answer_that_no_prompt_fits_beside_is_refused_before_training(workspace: Workspace) -> None:
    long_data(workspace, prompt="short", completions=["good " * 300, "bad"])
    workspace.set({"ppo.max_prompt_length": 100})
    with pytest.raises(StageError, match=r"1 row with an answer that does not fit .* of comparisons.jsonl"):
        stages(workspace)
    workspace.set({"prepare.too_long": "drop"})
    assert stages(workspace)["too_long"]["comparisons"] == 1


def beside(workspace: Workspace) -> None:
    """A prompt of 211 tokens that leaves room for a response of 12, and not for its answer of 41."""
    prompt, answer = "start " + "word " * 208 + "end?", "good " * 40
    own(workspace, [*rows_of(60), {"prompt": prompt, "completion": answer}], rankings(60))
    workspace.set({"base.context": 232, "ppo.response_length": 12, "evaluate.response_length": 12})


def test_a_prompt_that_fits_alone_and_not_beside_its_answer_is_refused(workspace: Workspace) -> None:
    beside(workspace)
    with pytest.raises(StageError, match=r"1 row with a plain prompt that loses its start beside the"):
        stages(workspace)


@pytest.mark.parametrize("tokenizer", ["word", "bpe"])
def test_the_token_that_ends_an_answer_needs_room_as_well(tokenizer: str, tmp_path: Path) -> None:
    row = {"prompt": "." * 220, "completion": "." * 12, "split": "train", "source": "a", "writer_id": "b"}
    write_table(tmp_path / "rows.parquet", DEMONSTRATION, [row])
    view = views({"demonstrations": read_table(tmp_path / "rows.parquet", DEMONSTRATION)})["demonstrations"]
    asked = settings(base__tokenizer=tokenizer, ppo__response_length=12, evaluate__response_length=12)
    assert [len(list(suspects(view, asked, context))) for context in (232, 233)] == [1, 0]


def test_long_words_that_fit_need_no_tokenizer(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.fitting.scratch_template", None)  # which loads torch
    long = "extraordinarily " * 60
    own(workspace, [*rows_of(60), {"prompt": long, "completion": long}], rankings(60))
    workspace.set({"base.context": 256, "ppo.response_length": 12, "evaluate.response_length": 12})
    stages(workspace)


@pytest.mark.parametrize("how", ["drop", "cut"])
def test_it_is_dropped_or_cut_like_any_other(how: str, workspace: Workspace) -> None:
    beside(workspace)
    workspace.set({"prepare.too_long": how})
    assert stages(workspace)["too_long"]["demonstrations"] == 1
    whole = read_table("data/prepared/demonstrations.parquet", DEMONSTRATION)
    assert [len(row["prompt"].split()) for row in whole if "end?" in row["prompt"]] == {
        "drop": [],
        "cut": [232 - 41 - 1],
    }[how]


def test_where_a_prompt_may_be_cut_it_is_counted(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    beside(workspace)
    workspace.set({"ppo.max_prompt_length": 100})
    for stage in ("ingest", "prepare"):
        workspace.stage(stage)
    assert workspace.stage("validate")["prompts_cut"] == 1
    assert "1 row with a plain prompt that loses its start" in capsys.readouterr().out
