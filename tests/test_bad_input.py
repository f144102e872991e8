"""Bad input, planted one at a time: the pipeline stops with one clear line, nothing is half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Workspace

from rlhf.data.contracts import DEMONSTRATION, row_id
from rlhf.data.errors import DataError
from rlhf.settings import SettingsError, load_settings
from tasks.runtime.errors import StageError

Row = dict[str, Any]
SPLIT = {0: "test", 1: "test", 2: "validation"}


def demonstrations() -> list[Row]:
    return [
        {"prompt": f"question {i}", "completion": f"answer {i}", "split": SPLIT.get(i, "train")}
        for i in range(12)
    ]


def comparisons() -> list[Row]:
    return [
        {
            "prompt": f"question {i}",
            "completions": ["good", "fair", "bad", "worse"],
            "ranking": [1, 2, 2, 3],
            "labeler_id": "ann",
        }
        for i in range(3, 8)
    ]


def write(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def own_data(workspace: Workspace) -> Workspace:
    """Good files of a user's own, in `own/`."""
    (workspace.path / "own").mkdir()
    write(workspace.path / "own/demonstrations.jsonl", demonstrations())
    write(workspace.path / "own/comparisons.jsonl", comparisons())
    workspace.set({"ingest.source": "files", "ingest.path": "own", "collect.labelers": "given"})
    return workspace


def snapshot() -> dict[str, bytes]:
    folders = ("data/raw", "data/gold", "data/prepared", "metrics", "runs")
    return {
        str(f): f.read_bytes() for folder in folders for f in sorted(Path(folder).rglob("*")) if f.is_file()
    }


def pipeline(workspace: Workspace) -> None:
    for stage in ("ingest", "prepare", "validate"):
        workspace.stage(stage)


def test_good_files_pass(own_data: Workspace) -> None:
    pipeline(own_data)
    figures = json.loads(Path("metrics/validation.json").read_text())
    assert {name: table["rows"] for name, table in figures.items()} == {
        "demonstrations": 12,
        "prompts": 12,
        "comparisons": 5,
        "votes": 0,
        "corpus": 8,
    }
    assert all(table["failed"] == 0 for table in figures.values())


def change(file: str, row: int, **values: Any) -> Callable[[Path], None]:
    """Change columns of one row (from 0)."""

    def plant(folder: Path) -> None:
        rows = [json.loads(line) for line in (folder / file).read_text().splitlines()]
        rows[row] |= values
        write(folder / file, rows)

    return plant


def edit(file: str, work: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(work((folder / file).read_bytes())) and None


def add(file: str, row: Row) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        with (folder / file).open("a") as handle:
            handle.write(json.dumps(row) + "\n")

    return plant


DEMOS, COMPS = "demonstrations.jsonl", "comparisons.jsonl"
UNREADABLE: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "no file": (lambda f: [file.unlink() for file in f.iterdir()], ["own", "no file of a known type"]),
    "missing folder": (lambda f: f.rename(f.with_name("gone")), ["own", "no such file or folder"]),
    "empty file": (edit(DEMOS, lambda raw: b""), [DEMOS, "the file is empty"]),
    "only blank lines": (edit(DEMOS, lambda raw: b"\n\n"), [DEMOS, "no rows"]),
    "truncated last line": (edit(DEMOS, lambda raw: raw[:-15]), [DEMOS, "row 12", "cut off"]),
    "wrong column": (
        edit(DEMOS, lambda raw: raw.replace(b'"completion"', b'"colour"')),
        [DEMOS, "row 1", "'completion' is missing"],
    ),
    "unknown split": (
        change(DEMOS, 4, split="later"),
        [DEMOS, "row 5", "'later' is no split", "write one of"],
    ),
    "a row that is no object": (edit(DEMOS, lambda raw: raw + b"[1]\n"), [DEMOS, "row 13", "list"]),
    "invalid UTF-8": (
        edit(DEMOS, lambda raw: raw.replace(b"answer 6", b"answer \xe9")),
        [DEMOS, "row 7", "not UTF-8", "0xe9"],
    ),
    "half a surrogate": (change(DEMOS, 2, prompt="a\ud83d"), [DEMOS, "row 3", "'prompt'", "ud83d"]),
    "number for a text": (change(DEMOS, 3, prompt=5), [DEMOS, "row 4", "'prompt'", "5 is no string"]),
    "text for a rank": (
        change(COMPS, 1, ranking=["a", 1, 2, 3]),
        [COMPS, "row 2", "'a' in a ranking is no number"],
    ),
    "two files for one table": (
        lambda f: (f / "demonstrations.csv").write_text("prompt,completion\na,b\n"),
        ["demonstrations.jsonl", "demonstrations.csv", "keep one"],
    ),
}
INVALID: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "null prompts": (
        lambda f: [change(DEMOS, i, prompt=None)(f) for i in (5, 8)],
        ["demonstrations:", "the prompt has text", "2 rows", f"row 6 of {DEMOS}"],
    ),
    "blank completion": (
        change(DEMOS, 4, completion=" \n "),
        ["demonstrations:", "every completion has text", "row 5"],
    ),
    "over-long prompt": (
        change(DEMOS, 4, prompt="x" * 4001),
        ["demonstrations:", "longer than 4000", "row 5"],
    ),
    "replacement character": (
        change(DEMOS, 4, completion="caf\ufffd"),
        ["demonstrations:", "replacement characters", "1 row,", "row 5", "caf\\ufffd"],
    ),
    "control character": (change(DEMOS, 4, prompt="a\x08b"), ["demonstrations:", "control", "row 5"]),
    "a prompt in two splits": (
        add(DEMOS, {"prompt": "question 7", "completion": "another", "split": "test"}),
        ["demonstrations:", "a prompt is in one split", "2 rows", "row 8", "test and train"],
    ),
    "a prompt in two splits across files": (
        change(COMPS, 2, split="test"),
        ["demonstrations:", "a prompt is in one split", "row 6", "test and train"],
    ),
    "no test split": (
        edit(DEMOS, lambda raw: raw.replace(b'"test"', b'"train"')),
        ["demonstrations:", "train, validation and test have rows", "missing: test", "prepare.test_share"],
    ),
    "duplicate ids": (
        lambda f: [change(DEMOS, i, id=row_id(DEMONSTRATION, demonstrations()[4]))(f) for i in (4, 5)],
        ["demonstrations:", "no two rows have the same id", "2 rows", "row 5"],
    ),
    "duplicate ids of the user's own": (
        lambda f: [change(DEMOS, i, id="7")(f) for i in (4, 5)],
        ["demonstrations:", "no two rows have the same id", "2 rows", "row 5", "'7'"],
    ),
    "an id of another content": (
        change(DEMOS, 4, id="0123456789abcdef"),
        ["demonstrations:", "id is the hash of the content", "1 row,", "row 5", "0123456789abcdef"],
    ),
    "the same row twice": (
        add(DEMOS, demonstrations()[6]),
        ["demonstrations:", "same as another", "1 row,", "row 13", f"the same as row 7 of {DEMOS}"],
    ),
    "a ranking too short": (change(COMPS, 2, ranking=[1, 2]), ["comparisons:", "skipping none", "row 3"]),
    "chosen equal to rejected": (
        change(COMPS, 2, completions=["good", "fair", "bad", "good"]),
        ["comparisons:", "own copy", "row 3"],
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_ingest_refuses(case: str, own_data: Workspace) -> None:
    own_data.stage("ingest")
    own_data.stage("prepare")
    before = snapshot()
    plant, said = UNREADABLE[case]
    plant(own_data.path / "own")
    with pytest.raises(DataError) as caught:
        own_data.stage("ingest")
    _one_line(str(caught.value), said)
    assert snapshot() == before  # an earlier result stays whole


@pytest.mark.parametrize("case", INVALID)
def test_validate_refuses(case: str, own_data: Workspace) -> None:
    plant, said = INVALID[case]
    plant(own_data.path / "own")
    own_data.stage("ingest")
    own_data.stage("prepare")
    Path("metrics/validation.json").write_text("{}")  # of an earlier run
    with pytest.raises(StageError) as caught:
        own_data.stage("validate")
    _one_line(str(caught.value), said)
    assert not Path("metrics/validation.json").exists()
    assert Path("reports/validation/prepared/index.html").exists()


def _one_line(message: str, said: list[str]) -> None:
    assert "\n" not in message
    for part in said:
        assert part in message
    assert not list(Path(".").rglob("*.part"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ppo.kl_coeff": 0.1}, ["unknown key 'ppo.kl_coeff'", "did you mean 'ppo.kl_coef'?"]),
        ({"ppo.clip": -0.2}, ["ppo.clip", "greater than 0", "-0.2"]),
        ({"base.scale": "7B"}, ["base.scale", "0.1M", "'7B'"]),
    ],
)
def test_params_refuse(changes: dict[str, Any], said: list[str], workspace: Workspace) -> None:
    workspace.set(changes)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    _one_line(str(caught.value), ["params.yaml", *said])


def test_another_hash_than_named(own_data: Workspace) -> None:
    own_data.set({"ingest.sha256": "0" * 64})
    with pytest.raises(DataError, match="the data changed"):
        own_data.stage("ingest")


def test_commands_end_with_one_line_and_code_1(own_data: Workspace) -> None:
    """The real commands: a bad file, a broken rule and a bad parameter."""
    add(COMPS, {**comparisons()[0], "ranking": [1, 2, 3]})(own_data.path / "own")
    assert own_data.run("tasks.ingest").returncode == 0
    assert own_data.run("tasks.prepare").returncode == 0
    assert json.loads(Path("runs/prepare.json").read_text())["figures"]["comparisons/train"] == 6
    _ended(own_data.run("tasks.validate", "prepared"), "skipping none")
    assert not Path("runs/validate.json").exists()

    edit(DEMOS, lambda raw: raw[:-9])(own_data.path / "own")
    _ended(own_data.run("tasks.ingest"), "is the line cut off?")

    own_data.set({"ingest.test_posts": 3})
    _ended(own_data.run("tasks.prepare"), "ingest.test_posts")


def _ended(done: Any, said: str) -> None:
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert said in errors[0]
    assert "Traceback" not in done.stderr
