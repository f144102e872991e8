"""What the label app takes and exports, the pipeline's ingest reads again, whole; and the loop closes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conftest import Workspace
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layout_reading import case

from labeling.__main__ import main
from labeling.contracts import TABLES, tables
from labeling.exports import FORMATS, export
from labeling.imports.files import read_labels
from labeling.imports.label import ImportedLabel
from labeling.imports.storing import store_labels
from labeling.projects import add_project
from labeling.store import Store
from rlhf.data.contracts import COMPARISON
from rlhf.data.files_source import files
from rlhf.data.reading import Source
from rlhf.data.table import read_table

TEXTS = st.one_of(
    st.sampled_from(
        ["yes", "4", "[1, 2]", '{"a": 1}', "a;b,c\t|", '"quoted"', "\n    return 1\n", "true", "NA"]
    ),
    st.text(
        st.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=("Cs", "Cc")),
        min_size=1,
        max_size=20,
    ).filter(str.strip),
)
TURNS = st.one_of(
    st.none(),
    st.lists(TEXTS, min_size=1, max_size=2).map(
        lambda texts: (
            [
                turn
                for text in texts[:-1]
                for turn in ({"role": "user", "content": text}, {"role": "assistant", "content": "Go on."})
            ]
            + [{"role": "user", "content": texts[-1]}]
        )
    ),
)
MAYBE = st.one_of(st.none(), st.floats(0, 1e6, allow_nan=False))


@st.composite
def imported(draw: st.DrawFn) -> ImportedLabel:
    """A label of any kind, with what it may say besides."""
    kind = draw(st.sampled_from(["compare", "rank", "edit", "judge", "vote"]))
    number = {"compare": 2, "rank": draw(st.integers(2, 4))}.get(kind, 1)
    outputs = tuple(draw(st.lists(TEXTS, min_size=number, max_size=number, unique_by=str.strip)))
    answer: dict[str, Any]
    if kind in ("compare", "rank"):
        ranks = draw(st.lists(st.integers(1, number), min_size=number, max_size=number))
        dense = [sorted(set(ranks)).index(rank) + 1 for rank in ranks]
        answer = {"ranking": dense}
        if kind == "rank" and number > 2 and draw(st.booleans()):
            answer = {"ranking": [None, *(sorted(set(dense[1:])).index(rank) + 1 for rank in dense[1:])]}
        elif draw(st.booleans()):
            answer |= {"scores": [float(-rank) for rank in dense], "margin": draw(MAYBE)}
        if kind == "compare":
            answer["both_bad"] = len(set(dense)) == 1 and draw(st.booleans())
    else:
        choices = {"edit": {"text": draw(TEXTS)}, "vote": {"vote": draw(st.sampled_from(["up", "down"]))}}
        choices["judge"] = {"preferred": draw(st.sampled_from(["output", "reference", "tie"]))}
        answer = choices[kind]
    turns = draw(TURNS)
    return ImportedLabel(
        kind=kind,
        prompt=draw(TEXTS) if turns is None else "\n".join(turn["content"] for turn in turns),
        messages=turns,
        outputs=outputs,
        policies=tuple(f"policy {k}" for k in range(number)),
        answer=answer,
        labeler=draw(st.sampled_from(["ann", "ben", "7"])),
        reference="the reference" if kind == "judge" else None,
        seconds=draw(MAYBE),
        strength=draw(st.one_of(st.none(), st.integers(1, 9))),
        shown_order=draw(st.one_of(st.none(), st.permutations(range(number)).map(tuple)))
        if kind in ("compare", "rank")
        else None,
        note=draw(st.one_of(st.just(""), TEXTS)),
        split=draw(st.sampled_from([None, "train", "test"])),
        source=draw(st.sampled_from([None, "letters"])),
    )


@given(st.lists(imported(), min_size=1, max_size=6))
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_an_export_is_read_as_it_is(labels: list[ImportedLabel]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/labels.db")
        with store.write() as tx:
            add_project(tx, "p", "test")
            store_labels(tx, "p", labels, "file", "test")
        with store.read() as tx:
            expected = tables(tx, "p")
            expected.pop("labels")
            for form in FORMATS:
                export(tx, "p", f"{folder}/{form}", form)
        store.close()
        if not any(expected.values()):
            return
        for form in FORMATS:
            raw = files([Source(f"{folder}/{form}")], "r")
            for name, rows in expected.items():
                read = raw.judgments if name == "judgments" else raw.tables[name]
                full = [{column: row.get(column) for column in TABLES[name].schema.names} for row in read]
                assert sorted(full, key=_text) == sorted(rows, key=_text), (form, name)


def _text(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "name", ["arg-rank.json", "numid.jsonl", "k12.comparisons.jsonl", "ls-pair-swap.json"]
)
def test_what_is_imported_and_exported_passes_ingest(
    name: str, form: str, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    path = case(name)
    db = ["--db", f"sqlite:///{workspace.path / 'x.db'}"]
    main([*db, "init"])
    main([*db, "import", "q", str(path)])
    main([*db, "export", "q", "labels", "--format", form])
    workspace.set({"ingest.source": "files", "ingest.path": "labels"})
    workspace.stage("ingest")
    rows = read_table("data/raw/comparisons.parquet", COMPARISON)
    labels = read_labels(path)
    assert sorted(row["ranking"] for row in rows) == sorted(label.answer["ranking"] for label in labels)
    assert {row["labeler_id"] for row in rows} == {label.labeler for label in labels}
    if name != "ls-pair-swap.json":  # which says what stood left
        assert {row["shown_order"] and tuple(row["shown_order"]) for row in rows} == {None}


def test_what_is_imported_is_what_collect_takes(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = workspace.path / "records.json"
    fields = {f"response-{k}": f"answer {k}" for k in (1, 2, 3)}
    ranks = [["response-2", "response-1"], ["response-1", "response-3", "response-2"]]
    records = [
        {
            "fields": {"prompt": f"question {number}"} | fields,
            "responses": {"order": [{"value": ranks[number % 2], "user_id": f"u{number % 3}"}]},
        }
        for number in range(6)
    ]
    path.write_text(json.dumps(records))
    demonstrations = [{"prompt": f"question {number}", "completion": "an answer"} for number in range(40)]
    Path("given").mkdir()
    Path("given/demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in demonstrations))
    url = f"sqlite:///{workspace.path / 'labels.db'}"
    monkeypatch.setenv("LABELING_DB", url)
    main(["init"])
    main(["import", "q", str(path)])
    main(["export", "q", "out", "--cut"])
    workspace.set({"ingest.source": "files", "ingest.path": "given"})
    workspace.set({"collect.labelers": "store", "collect.labels.project": "q", "collect.labels.version": 1})
    for stage in ("ingest", "prepare", "collect"):
        workspace.stage(stage)
    rows = read_table("data/comparisons/comparisons.parquet", COMPARISON)
    # the output that was not ranked stays
    assert sorted(row["ranking"] for row in rows if None not in row["ranking"]) == [[1, 3, 2]] * 3
    assert [row["ranking"] for row in rows if None in row["ranking"]] == [[2, 1, None]] * 3
    assert {row["labeler_id"] for row in rows} == {"argilla-u0", "argilla-u1", "argilla-u2"}
    assert {row["shown_order"] and tuple(row["shown_order"]) for row in rows} == {None}


def own_votes(folder: Path) -> Path:
    """Rankings of people without a name, of whom several judged the same outputs, and partial ones."""
    rows = [
        {"prompt": f"question {number}", "completions": [f"answer {k} of {number}" for k in range(3)]}
        | {"ranking": ranking}
        for number in range(8)
        for ranking in ([1, 2, 3], [2, 1, None])
    ]
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["arg-rank.json", "own"])
def test_what_is_imported_and_exported_trains(name: str, workspace: Workspace) -> None:
    path = own_votes(workspace.path) if name == "own" else case(name)
    db = ["--db", f"sqlite:///{workspace.path / 'x.db'}"]
    main([*db, "init"])
    main([*db, "import", "q", str(path)])
    main([*db, "export", "q", "labels", "--format", "jsonl"])
    workspace.set({"ingest.source": "files", "ingest.path": "labels", "collect.labelers": "given"})
    workspace.set({"evaluate.judges": ["human"], "base.tokenizer": "bpe", "base.vocab_size": 300})
    workspace.set({"base.steps": 1})
    for stage in (
        "ingest",
        "prepare",
        "validate",
        "base",
        "sft",
        "collect",
        "validate-comparisons",
        "reward",
    ):
        workspace.stage(stage)
    rows = read_table("data/comparisons/comparisons.parquet", COMPARISON)
    assert len(rows) == len(read_labels(path))
    assert Path("models/reward/model.safetensors").exists()
