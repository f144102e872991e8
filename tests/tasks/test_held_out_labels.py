"""Rankings of held-out prompts never train, wherever they come from and however their prompts are spelled."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import Workspace
from label_app import DATA

from labeling.imports.files import read_labels
from labeling.imports.label import ImportedLabel
from labeling.imports.storing import store_labels
from labeling.projects import add_project
from labeling.store import Store
from labeling.versions import cut_version
from rlhf.data.contracts import COMPARISON, PROMPT, TABLES, with_ids
from rlhf.data.errors import DataError
from rlhf.data.qa_feedback import qa_feedback
from rlhf.data.splits import prompt_key
from rlhf.data.table import read_table, write_table
from rlhf.settings import Prepare
from tasks.prepare import prepare


def question(number: int) -> dict[str, Any]:
    """A question as in dev_feedback.json, its passages longer than a prompt may be."""
    return {
        "question": f"who  is number {number}?",
        "passages": [["Numbers", "Numbers\n\nA number  is a count.", f"{number} word " * 60], ["More", "x"]],
        "gold": f"It is {number}. ",
        "preference": [1, 1, 1, 0, 1, 1],
        **{f"prediction {i}": f"answer {i} of {number} " for i in range(1, 5)},
        "feedback": {"corrected-prediction": f"better answer of {number}"},
    }


def import_into(store: Store, project: str, labels: list[ImportedLabel]) -> None:
    """Labels in a new project, all in its version 1."""
    with store.write() as tx:
        add_project(tx, project, "test")
        store_labels(tx, project, labels, "file", "test")
        cut_version(tx, project, "test")


@pytest.fixture
def labels(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Any:
    url = f"sqlite:///{workspace.path / 'labels.db'}"
    monkeypatch.setenv("LABELING_DB", url)
    opened = Store(url)
    workspace.set({"collect.labelers": "store", "collect.labels.project": "p", "collect.labels.version": 1})
    yield opened
    opened.close()


@pytest.mark.parametrize("real", [False, True], ids=["made up", "dev_feedback.json"])
def test_imported_rankings_keep_the_split_of_their_question(
    real: bool, workspace: Workspace, labels: Store
) -> None:
    path = workspace.path / "dev_feedback.json"
    if real:
        if not DATA.exists():
            pytest.skip(f"no data at {DATA}")
        shutil.copyfile(DATA / "qa_feedback_dev" / "dev_feedback.json", path)
    else:
        path.write_text(json.dumps([question(number) for number in range(40)]))
    workspace.set({"ingest.source": "qa-feedback", "ingest.path": str(path)})
    workspace.set({"prepare.test_share": 0.2, "prepare.judge_share": 0.2})
    workspace.stage("ingest")
    workspace.stage("prepare")
    import_into(labels, "p", read_labels(path))
    workspace.stage("collect")

    split_of = {row["prompt"]: row["split"] for row in read_table("data/prepared/prompts.parquet", PROMPT)}
    rows = read_table("data/comparisons/comparisons.parquet", COMPARISON)
    assert {row["prompt"] for row in rows} == set(split_of)
    assert all(row["split"] == split_of[row["prompt"]] for row in rows)
    held_out = {prompt for prompt, split in split_of.items() if split in ("test", "judge")}
    assert len(held_out) > 0.25 * len(split_of)
    assert not held_out & {row["prompt"] for row in rows if row["split"] == "train"}


def test_the_source_and_the_import_spell_a_prompt_alike(tmp_path: Path) -> None:
    path = tmp_path / "dev_feedback.json"
    path.write_text(json.dumps([question(number) for number in range(5)]))
    source = [row["prompt"] for row in qa_feedback(path).tables["demonstrations"]]
    assert list(dict.fromkeys(label.prompt for label in read_labels(path))) == source


def ranked(prompt: str, split: str | None = None, ranking: tuple[int, ...] = (1, 2)) -> ImportedLabel:
    outputs = (f"good {prompt}", f"bad {prompt}")
    return ImportedLabel(
        "compare", prompt, outputs, {"ranking": list(ranking), "both_bad": False}, "ann", split=split
    )


def prompts_are(splits: dict[str, str]) -> None:
    rows = [{"prompt": prompt, "split": split} for prompt, split in splits.items()]
    write_table("data/prepared/prompts.parquet", PROMPT, with_ids(PROMPT, rows, "test"))


def test_labels_of_another_dataset_are_refused(workspace: Workspace, labels: Store) -> None:
    prompts_are({"question 1": "train", "question 2": "test"})
    import_into(labels, "p", [ranked("other 1"), ranked("other 2", "train")])
    with pytest.raises(
        DataError, match=r"no ranking is of a prompt of the dataset, such as 'other"
    ) as caught:
        workspace.stage("collect")
    assert "\n" not in str(caught.value)
    assert not Path("data/comparisons").exists()


def test_prompts_that_only_the_labels_know_are_counted_aloud(
    workspace: Workspace, labels: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts_are({"question 1": "train", "question 2": "test"})
    imported = [ranked("question 1"), ranked("question 2"), ranked("new"), ranked("kept back", "test")]
    import_into(labels, "p", imported)
    workspace.stage("collect")
    said = capsys.readouterr().out
    assert "4 rankings, 2 train, 0 validation, 0 judge, 2 test" in said
    assert "2 of them are of prompts that the dataset does not have, 1 of those in split train" in said


def test_another_spelling_of_a_held_out_prompt_is_held_out(workspace: Workspace, labels: Store) -> None:
    prompts_are({"Who is it?\nANSWER:": "test", "What is it?": "train"})
    import_into(labels, "p", [ranked(" who  is IT? \n\n answer: "), ranked("What is it?")])
    workspace.stage("collect")
    rows = read_table("data/comparisons/comparisons.parquet", COMPARISON)
    assert Counter(row["split"] for row in rows) == {"test": 1, "train": 1}


def test_ties_alone_are_refused(workspace: Workspace, labels: Store) -> None:
    prompts_are({"question 1": "train"})
    import_into(labels, "p", [ranked("question 1", ranking=(1, 1))])
    with pytest.raises(DataError, match="1 ranking, and nothing but ties"):
        workspace.stage("collect")


def test_prepare_puts_all_spellings_of_a_prompt_into_one_split() -> None:
    empty = {
        name: dict.fromkeys(contract.schema.names) | {"source": "s"} for name, contract in TABLES.items()
    }
    demonstrations = [{"prompt": f"What is\n{i}?", "completion": "a"} for i in range(300)]
    comparisons = [
        {"prompt": f"what  IS {i}?", "completions": ["a", "b"], "ranking": [1, 2]} for i in range(300)
    ]
    raw: dict[str, list[dict[str, Any]]] = {
        "corpus": [],
        "prompts": [],
        "votes": [],
        "demonstrations": [empty["demonstrations"] | row for row in demonstrations],
        "comparisons": [empty["comparisons"] | row for row in comparisons],
    }
    tables = prepare(raw, Prepare(test_share=0.3, judge_share=0.2), seed=1)
    splits: dict[str, set[str]] = {}
    for name in ("prompts", "demonstrations", "comparisons"):
        for row in tables[name]:
            splits.setdefault(prompt_key(row["prompt"]), set()).add(row["split"])
    assert len(splits) == 300
    assert all(len(names) == 1 for names in splits.values())
    assert {split for names in splits.values() for split in names} == {"train", "validation", "judge", "test"}
