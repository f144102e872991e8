"""Drift against the last version of a data set: what changed is said, what chance explains is not."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Workspace
from own_rows import own, rankings, rows_of

from rlhf.data.contracts import TABLES, with_ids
from tasks.rules.drift import NAMES, RULES, difference, distance, new_share, profile_of, stability
from tasks.rules.rule import Figure
from tasks.rules.view import InMemory, View, views
from tasks.runtime.errors import StageError
from tasks.runtime.past_profiles import _digest
from tasks.runtime.stage import Stage
from tasks.validate import FINDINGS

WORDS = [
    "amber",
    "birch",
    "cedar",
    "dune",
    "ember",
    "fjord",
    "grove",
    "harbor",
    "inlet",
    "juniper",
    "kelp",
    "lagoon",
    "meadow",
]


def view(rows: list[dict[str, Any]], table: str = "demonstrations") -> View:
    contract = TABLES[table]
    whole = [dict.fromkeys(contract.schema.names) | {"split": "train"} | row for row in rows]
    return views({table: InMemory(with_ids(contract, whole, "test"), contract)})[table]


def said(
    before: list[dict[str, Any]], now: list[dict[str, Any]], table: str = "demonstrations"
) -> dict[str, Figure]:
    """The rules that two versions break, with what they say."""
    new = view(now, table)
    new.last = json.loads(json.dumps(profile_of(view(before, table))))
    told = {}
    for rule in RULES:
        if table in rule.tables and rule.figure:
            figure = rule.figure(new, rule.threshold)
            if figure is not None and figure.value > float(rule.threshold or 0):
                told[rule.name] = figure
    return told


def rows(number: int, seed: int = 0, words: list[str] = WORDS) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "prompt": f"{i}: {' '.join(rng.choices(words, k=8))}",
            "completion": " ".join(rng.choices(words, k=9)),
        }
        for i in range(number)
    ]


def rank(i: int, better: str, worse: str, **more: Any) -> dict[str, Any]:
    return {"prompt": f"p{i}", "completions": [better, worse], "ranking": [1, 2], "labeler_id": "ann", **more}


def test_the_same_rows_and_a_few_more_do_not_drift() -> None:
    assert said(rows(400), rows(400)) == {}
    assert said(rows(400), rows(500)) == {}
    assert said(rows(400), list(reversed(rows(400)))) == {}


def test_two_samples_of_the_same_differ_by_their_prompts_alone() -> None:
    """Chance is taken off: small samples are far apart in their raw histograms."""
    told = said(rows(60, seed=1), rows(60, seed=2))
    assert set(told) == {"new_prompts", "lost_prompts"}
    assert "100%" in told["new_prompts"].said


def test_what_changes_is_found_by_its_rule() -> None:
    base = rows(400)
    short = [row | {"completion": row["completion"][:9]} for row in base]
    assert set(said(base, short)) == {"drift_lengths"}
    loud = [row | {"prompt": row["prompt"], "completion": row["completion"].upper()} for row in base]
    assert set(said(base, loud)) == {"drift_characters"}
    other = ["".join(reversed(word)) for word in WORDS]
    assert set(said(base, rows(400, words=other))) >= {"drift_words", "new_prompts"}
    moved = [row | {"source": "b"} if i % 2 else row for i, row in enumerate(base)]
    told = said(base, moved)
    assert set(told) == {"drift_values"}
    assert "was 100% and is 50%" in told["drift_values"].said
    assert set(said(base, base[:200])) == {"lost_prompts"}
    assert set(said(base[:200], base + rows(300, seed=3))) >= {"new_prompts"}


def test_shares_of_labels_are_compared_with_their_interval() -> None:
    fair = [rank(i, "good one", "bad one", shown_order=[i % 2, 1 - i % 2]) for i in range(300)]
    first = [rank(i, "good one", "bad one", shown_order=[0, 1]) for i in range(300)]
    told = said(fair, first, "comparisons")
    assert set(told) == {"drift_labels"}
    assert "first shown preferred: 50% of 300, now 100% of 300" in told["drift_labels"].said
    few = [rank(i, "good one", "bad one", shown_order=[0, 1]) for i in range(20)]
    assert "drift_labels" not in said(fair, few, "comparisons")


def test_statistics_by_hand() -> None:
    # p = (0.5, 0.5) and q = (0.9, 0.1): -0.4 ln(5 / 9) + 0.4 ln(5); many rows leave nothing to chance.
    p, q = np.array([5e7, 5e7]), np.array([9e7, 1e7])
    assert stability(p, q) == pytest.approx(0.4 * np.log(5) - 0.4 * np.log(5 / 9), rel=1e-3)
    assert distance(np.array([1e8, 0]), np.array([0, 1e8])) == pytest.approx(1, abs=1e-3)
    assert distance(p, p) == stability(p, p) == 0
    # Newcombe 1998, table II, row (a): 56 of 70 against 48 of 80.
    assert difference((56, 70), (48, 80)) == pytest.approx((0.0524, 0.3339), abs=2e-4)
    assert new_share(np.array([1, 2, 9]), np.array([2, 3, 4])) == (
        1,
        2,
    )  # 9 lies beyond what the other reaches


def test_small_samples_of_the_same_rarely_drift() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(12))
    for n in (40, 400):
        pairs = [(rng.multinomial(n, shares), rng.multinomial(n, shares)) for _ in range(300)]
        assert sum(stability(*pair) > 0.25 for pair in pairs) <= 3
        assert sum(distance(*pair) > 0.1 for pair in pairs) <= 15


def test_versions_are_compared_and_results_do_not_depend_on_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of `validate` finds the one before it in MLflow; what it says of it is in no metric."""
    seen: list[Any] = []

    def remembered(_stage: Stage, profiles: Any) -> Any:
        last = next((before for before in reversed(seen) if _digest(before) != _digest(profiles)), None)
        seen.append(json.loads(json.dumps(profiles)))
        return None if last is None else ("validate of last week", last)

    from conftest import Quiet

    monkeypatch.setattr(Quiet, "compare_profiles", remembered)
    own(workspace, rows_of(100), rankings(100))
    for stage in ("ingest", "prepare", "validate"):
        workspace.stage(stage)
    alone = Path(FINDINGS["prepared"]).read_bytes()
    seen.insert(0, json.loads(json.dumps(seen[0])))
    seen[0]["demonstrations"]["values"]["split"] = {"test": 100}
    seen.pop()
    told = workspace.stage("validate")
    assert Path(FINDINGS["prepared"]).read_bytes() == alone
    assert "sources, splits and labeler groups have the shares" in capsys.readouterr().out
    assert told["demonstrations/warnings"] >= 1
    workspace.set({"validate.rules": {"drift_values": "stop"}})
    with pytest.raises(StageError, match="sources, splits and labeler groups"):
        workspace.stage("validate")


def test_every_rule_of_drift_is_said_not_stopped() -> None:
    assert {rule.severity for rule in RULES} == {"warn"}
    assert {rule.name for rule in RULES} == NAMES
