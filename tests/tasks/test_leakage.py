"""Rules of leakage: each different prompt is looked at once, and all rows that have it are told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlhf.data.contracts import TABLES, with_ids
from rlhf.data.held_out import Runs
from tasks.rules.leakage import RULES
from tasks.rules.view import InMemory, View, views

TEST = "The harbour was closed for the winter, and no ship came in until the ice broke."
OTHER = "A lighthouse keeper wrote down each evening which ships had passed and where they went."


def tables(**rows: list[dict[str, Any]]) -> dict[str, View]:
    told: dict[str, InMemory] = {}
    for name, some in rows.items():
        contract = TABLES[name]
        whole = [dict.fromkeys(contract.schema.names) | {"split": "train"} | row for row in some]
        told[name] = InMemory(with_ids(contract, whole, "test"), contract)
    return views(told)


def broken(view: View, name: str = "leaked_prompt") -> list[bool]:
    rule = next(rule for rule in RULES if rule.name == name)
    assert rule.rows
    return np.asarray(rule.rows(view, None)).tolist()


def test_each_prompt_is_looked_at_once_over_all_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []
    which_within = Runs.which_within

    def counted(self: Runs, texts: Any) -> Any:
        looked_at.extend(texts.to_pylist())
        return which_within(self, texts)

    monkeypatch.setattr(Runs, "which_within", counted)
    holds = f"Before it. {TEST}"
    beside = tables(
        prompts=[{"prompt": prompt} for prompt in (OTHER, holds, "x", OTHER)]
        + [{"prompt": TEST, "split": "test"}],
        comparisons=[{"prompt": prompt} for prompt in (holds, OTHER, holds, "y")],
    )
    assert broken(beside["prompts"]) == [False, True, False, False, False]
    assert broken(beside["comparisons"]) == [True, False, True, False]
    assert sorted(looked_at) == sorted([OTHER, holds, "x", "y"])


def test_a_test_prompt_that_another_row_trains_on_is_told_whatever_comes_first() -> None:
    beside = tables(
        prompts=[{"prompt": TEST, "split": "test"}, {"prompt": TEST}],
        comparisons=[
            {"prompt": TEST, "split": "test"},
            {"prompt": TEST},
            {"prompt": OTHER},
            {"prompt": None},
        ],
    )
    assert broken(beside["comparisons"]) == [False, True, False, False]
    assert broken(beside["prompts"]) == [False, True]


def test_a_turn_that_the_prompt_does_not_tell_is_looked_at_though_the_prompt_was_met() -> None:
    turns = [{"role": "system", "content": TEST}, {"role": "user", "content": "x"}]
    beside = tables(
        prompts=[{"prompt": "x"}, {"prompt": "x", "messages": turns}, {"prompt": TEST, "split": "test"}]
    )
    assert broken(beside["prompts"]) == [False, True, False]


def test_an_answer_that_is_null_holds_nothing() -> None:
    beside = tables(
        prompts=[{"prompt": TEST, "split": "test"}],
        demonstrations=[{"prompt": "x", "completion": text} for text in (None, f"a\0 {TEST}", "no")],
    )
    assert broken(beside["demonstrations"], "leaked_prompt_in_answer") == [False, True, False]
