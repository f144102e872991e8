"""The suites: every rule is broken by the row that breaks it, and by no good row."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Workspace
from own_rows import own, rankings, rows_of

from flows.upfront import refuse
from rlhf.data.contracts import COMPARISON, TABLES, with_ids
from rlhf.data.errors import DataError
from rlhf.data.table import write_table
from rlhf.settings import Prepare, SettingsError, load_settings
from tasks.rules.catalogue import RULES, markdown, problem_with
from tasks.rules.rule import Asked
from tasks.rules.view import InMemory, views
from tasks.runtime.errors import StageError
from tasks.validate import check

GROUPS = {"expert", "novice"}
LIMITS = Prepare(max_prompt_chars=100, max_completion_chars=50)
ASKED = Asked(prepare=LIMITS, groups=GROUPS, required=["comparisons"])


def good(number: int) -> dict[str, Any]:
    return {
        "prompt": f"prompt {number}",
        "completions": [" one", " two", " three"],
        "ranking": [2, 1, 2],
        "labeler_id": "expert-01",
        "labeler_group": "expert",
        "strength": 9,
        "policies": ["sft", "sft", "reference"],
        "shown_order": [2, 0, 1],
        "seconds": 0.0,
        "split": "train",
    }


USER, ANSWER = {"role": "user", "content": "a?"}, {"role": "assistant", "content": "b."}
SYSTEM = {"role": "system", "content": "s"}
# What each broken row changes, and the rule that must name it. The row's number is its place here, from 1.
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"completions": None}, "2 to 64 completions"),
    ({"ranking": None}, "skipping none"),
    ({"labeler_group": None}, "the labeler group is one of expert, novice"),
    ({"completions": [" one"], "ranking": [1], "policies": None, "shown_order": None}, "2 to 64 completions"),
    ({"completions": [" one", "two", " three"]}, "every completion has text"),
    ({"completions": [" one", " ", " three"]}, "every completion has text"),
    ({"completions": [" one", None, " three"]}, "every completion has text"),
    ({"completions": [" one", " " + "x" * 50, " three"]}, "no completion is longer than 50"),
    ({"completions": [" one", " tw\ufffd", " three"]}, "completions have no control"),
    ({"completions": [" one", " \x1btwo", " three"]}, "completions have no control"),
    ({"ranking": [1, 1, 3]}, "skipping none"),
    ({"ranking": [0, 1, 2]}, "skipping none"),
    ({"ranking": [1, 2]}, "skipping none"),
    ({"ranking": [1, None, 3]}, "skipping none"),
    ({"ranking": [None, None, None]}, "skipping none"),
    ({"ranking": [2, 2, 2]}, "skipping none"),
    ({"ranking": []}, "skipping none"),
    ({"completions": [" one", " one", " three"]}, "own copy"),
    ({"policies": ["sft"]}, "policies, where given"),
    ({"shown_order": [1, 2, 3]}, "a shown order, where given"),
    ({"shown_order": [0, 0, 1]}, "a shown order, where given"),
    ({"scores": [1.0, 2.0]}, "scores, where given"),
    ({"scores": [0.5, 0.25, 0.75]}, "a ranking follows its scores"),
    ({"both_bad": True}, "where no completion will do"),
    ({"strength": 0}, "a strength, where given"),
    ({"strength": 10}, "a strength, where given"),
    ({"seconds": -1.0}, "seconds, where given"),
    ({"labeler_group": "robot"}, "the labeler group is one of expert, novice"),
    ({"prompt": None}, "the prompt has text"),
    ({"prompt": "\n"}, "the prompt has text"),
    ({"prompt": "x" * 101}, "the prompt is no longer than 100"),
    ({"prompt": "a\x00b"}, "the prompt has no control"),
    ({"messages": []}, "messages, where given, wait"),
    ({"messages": [USER, ANSWER]}, "messages, where given, wait"),
    ({"messages": [USER | {"content": " \n"}]}, "messages, where given, wait"),
    ({"messages": [USER | {"role": "bot"}]}, "messages, where given, wait"),
    ({"messages": [USER, SYSTEM, USER]}, "messages, where given, wait"),
    ({"messages": [USER | {"content": "a\x00b"}]}, "messages have no control"),
    ({"messages": [SYSTEM, USER | {"content": "x" * 100}]}, "messages are no longer than 100"),
    ({"messages": [USER], "completions": [" one", "\n ", " three"]}, "every completion has text"),
    ({"split": None}, "the split is one of"),
    ({"split": "dev"}, "the split is one of"),
    ({"id": "feedfacefeedface"}, "the id is the hash of the content"),
]
FINE: list[dict[str, Any]] = [
    {},
    {"ranking": [1, 1, 1]},
    {"ranking": [1, None, 2]},
    {"ranking": [2, 1, None], "completions": [" one", " two", " one"]},
    {"shown_order": []},
    {"labeler_id": None},
    {"scores": [0.5, 0.75, 0.5], "margin": 0.25},
    {"ranking": [1, 1, 1], "both_bad": True},
    {"strength": None, "seconds": None, "policies": None, "shown_order": None},
    {"completions": [" one", " one", " three"], "ranking": [1, 1, 2]},  # a copy tied with itself
    {"completions": [" " + "x" * 49, " é\n\t🙂", " three"]},
    {"prompt": "x" * 100},
    {"messages": [SYSTEM, USER, ANSWER, USER], "completions": ["one", "    two:\n", " three"]},
    {"messages": [USER | {"content": "x" * 100}]},
]


def run(rows: list[dict[str, Any]], docs: Path, **more: Any) -> list[str]:
    table = with_ids(COMPARISON, [dict.fromkeys(COMPARISON.schema.names) | row for row in rows], "test")
    tables = views({"comparisons": InMemory(table, COMPARISON)})
    findings, _ = check(tables, replace(ASKED, **more), docs)
    return [finding.line() for finding in findings if finding.severity == "stop"]


def test_every_rule_of_comparisons_is_broken_by_its_rows_alone(tmp_path: Path) -> None:
    rows = [good(i) | changes for i, (changes, _) in enumerate(BROKEN)]
    rows += [good(100 + i) | changes for i, changes in enumerate(FINE)]
    messages = run(rows, tmp_path / "docs")
    expected: dict[str, list[int]] = {}
    for number, (_, rule) in enumerate(BROKEN, start=1):
        expected.setdefault(rule, []).append(number)
    for rule, numbers in expected.items():
        (message,) = [message for message in messages if rule in message]
        count = f"{len(numbers)} row{'s' * (len(numbers) > 1)}, such as row {numbers[0]} of test"
        assert count in message, message
        assert "\n" not in message
    assert len(messages) == len(expected)
    assert "prompt is in one split" not in str(messages)
    page = (tmp_path / "docs" / "index.html").read_text()
    assert "comparisons" in page
    (result,) = (tmp_path / "docs" / "validations" / "comparisons").rglob("*.html")
    assert "no completion is ranked against its own copy (why: a model cannot learn to" in result.read_text()


def test_good_rows_pass(tmp_path: Path) -> None:
    rows = [good(i) | changes for i, changes in enumerate(FINE)]
    assert run(rows, tmp_path / "docs") == []


def test_no_text_of_a_row_is_in_the_data_docs(tmp_path: Path) -> None:
    hostile = " <script>alert(1)</script><img src=x onerror=alert(2)>$x {{ 7 * 7 }}"
    longer = hostile + "\x1b" + "x" * 200
    rows = [
        good(1) | {"completions": [hostile, longer, longer]},
        good(2) | {"prompt": longer, "labeler_id": hostile, "labeler_group": hostile, "split": hostile},
        good(3) | {"policies": [hostile], "shown_order": [7, 7, 7], "strength": 0},
    ]
    rows = [row | {"id": hostile, "source": hostile} for row in rows]
    failures = run(rows, tmp_path / "docs")
    assert len(failures) > 8
    pages = {path: path.read_text() for path in (tmp_path / "docs").rglob("*.html")}
    assert len(pages) == 5  # the index, and rules and outcome of rows and of figures
    for name, text in pages.items():
        assert "alert(" not in text, name
        assert "onerror" not in text, name


def test_the_data_docs_open_without_the_internet(tmp_path: Path) -> None:
    """Nothing is loaded, no script runs, and the index, which the library fills by a script, is there."""
    docs = tmp_path / "docs"
    assert run([good(1), good(2) | {"ranking": [1, 3, 3]}], docs)
    for page in docs.rglob("*.html"):
        text = page.read_text()
        assert "<script" not in text
        assert "onclick" not in text
        assert not re.search(r"""(src|href)=["'](https?:)?//|url\(|@import""", text), page
    (result,) = docs.glob("validations/comparisons/*/*/*.html")
    index = (docs / "index.html").read_text()
    assert f'<a href="{result.relative_to(docs)}">comparisons</a>' in index
    assert "breaks a rule" in index
    assert run([good(1)], tmp_path / "good") == []
    assert "meets every rule" in (tmp_path / "good" / "index.html").read_text()


def test_duplicates_and_two_splits(tmp_path: Path) -> None:
    rows = [good(1), good(2), good(1) | {"split": "test"}, good(3) | {"id": "a"}, good(4) | {"id": "a"}]
    messages = "\n".join(run(rows, tmp_path / "docs"))
    assert (
        "a prompt is in one split; 2 rows, such as row 1 of test (its splits are test and train)" in messages
    )
    assert (
        "no row says the same as another; 1 row, such as row 3 of test (it says the same as row 1 of test)"
        in messages
    )
    assert "no two rows have the same id; 2 rows, such as row 4" in messages


def test_a_table_without_rows(tmp_path: Path) -> None:
    assert run([], tmp_path / "docs") == [
        "comparisons: broken rule: there are comparisons (found 0); bring at least one of the comparisons"
    ]
    assert run([], tmp_path / "d", required=[]) == []


def test_collected_comparisons(workspace: Workspace) -> None:
    workspace.stage("ingest")
    workspace.stage("prepare")
    rows = with_ids(COMPARISON, [good(i) for i in range(3)], "simulated")
    with pytest.raises(DataError, match=r"comparisons\.parquet: no such file"):
        workspace.stage("validate-comparisons")
    write_table("data/comparisons/comparisons.parquet", COMPARISON, rows)
    assert workspace.stage("validate-comparisons")["comparisons/rows"] == 3
    metrics = json.loads(Path("metrics/validation-comparisons.json").read_text())
    assert metrics["comparisons"].items() >= {"rows": 3, "failed": 0}.items()
    assert Path("reports/validation/comparisons/index.html").exists()

    write_table("data/comparisons/comparisons.parquet", COMPARISON, [])
    with pytest.raises(StageError, match="there are comparisons"):
        workspace.stage("validate-comparisons")

    unknown = with_ids(COMPARISON, [good(1) | {"labeler_group": "crowd"}], "simulated")
    write_table("data/comparisons/comparisons.parquet", COMPARISON, unknown)
    with pytest.raises(StageError, match="the labeler group is one of expert, novice, spammer"):
        workspace.stage("validate-comparisons")


def test_no_demonstrations_is_said_and_no_failure(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.stage("ingest")
    workspace.stage("prepare")
    write_table("data/prepared/demonstrations.parquet", TABLES["demonstrations"], [])
    workspace.stage("validate")
    assert (
        "warning: there are no demonstrations, and PPO and the evaluation need them"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("severities", "thresholds", "said"),
    [
        ({"personal_dat": "stop"}, {}, "no rule is called 'personal_dat'; did you mean 'personal_data'?"),
        ({}, {"tie": 0.1}, "validate.thresholds: no rule is called 'tie'; did you mean 'ties'?"),
        ({"ties": "quarantine"}, {}, "ties is about a whole table, so no row can be set aside"),
        ({}, {"prompt_length": 9}, "the threshold of prompt_length is prepare.max_prompt_chars; set that"),
        ({}, {"prompt_text": 9}, "prompt_text has no threshold"),
    ],
)
def test_what_no_rule_can_do_is_refused(severities: Any, thresholds: Any, said: str) -> None:
    problem = problem_with(severities, thresholds)
    assert problem is not None
    assert said in problem
    assert "\n" not in problem


def test_a_rule_that_there_is_not_is_refused_at_second_0(workspace: Workspace) -> None:
    workspace.set({"validate.rules": {"personal_dat": "stop"}})
    with pytest.raises(SettingsError, match="did you mean 'personal_data'"):
        refuse(load_settings())


def test_every_rule_says_what_why_and_how_to_mend_it_and_is_in_the_table_of_the_docs() -> None:
    table = markdown()
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert min(len(rule.text), len(rule.reason), len(rule.mend)) > 10, rule.name
        assert sum(check is not None for check in (rule.batch, rule.rows, rule.figure)) == 1, rule.name
        assert f"| `{rule.name}` | " in table
    assert table in (ROOT / "docs/data.md").read_text(), "write what `python -m tasks.rules` prints there"


def test_rows_are_set_aside_by_any_rule_of_rows(workspace: Workspace) -> None:
    own(workspace, rows_of(60), rankings(60))
    with Path("own/demonstrations.jsonl").open("a") as file:
        for text in ("call (555) 123-4567", "x" * 3000):
            row = {"prompt": f"what about {text[:4]}", "completion": text, "split": "train"}
            file.write(json.dumps(row) + "\n")
    rules = {"personal_data": "quarantine", "completion_length": "quarantine"}
    workspace.set({"validate.rules": rules})
    for stage in ("ingest", "prepare"):
        workspace.stage(stage)
    aside = [json.loads(line) for line in Path("data/prepared/quarantine.jsonl").read_text().splitlines()]
    assert {(row["table"], row["where"], row["rule"]) for row in aside} == {
        ("demonstrations", "row 61 of demonstrations.jsonl", "personal_data"),
        ("demonstrations", "row 62 of demonstrations.jsonl", "completion_length"),
        ("corpus", "text 37, of demonstrations.jsonl", "personal_data"),
    }
    assert "555" not in str([row["shows"] for row in aside])
    figures = json.loads(Path("metrics/prepare.json").read_text())
    assert figures["set_aside"] == {"demonstrations": 2, "corpus": 1}
    assert sum(split["rows"] for split in figures["demonstrations"].values()) == 60
    assert figures["corpus"]["rows"] + figures["corpus"]["dropped"] + 1 == 62

    told = workspace.stage("validate")
    assert told["demonstrations/rows"] == 60
    findings = json.loads(Path("metrics/findings.json").read_text())
    assert {(finding["rule"], finding["severity"], finding["rows"]) for finding in findings} >= {
        ("completion_length", "quarantine", 1)
    }
