"""The queue of the next round: what goes in, and that a round may end with nothing to rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import ROOT, Workspace

from flows import refill
from labeling.schema import items
from labeling.store import Store
from rlhf.data.contracts import DEMONSTRATION, with_ids
from rlhf.data.conversations import transcript
from rlhf.data.table import write_table
from rlhf.settings import Settings, load_settings


@pytest.fixture
def settings(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Twelve prompts, and the SFT policy as the one that answers."""
    splits = ["train"] * 10 + ["validation", "test"]
    rows = [{"prompt": f"p{i}", "completion": f" ref {i}", "split": s} for i, s in enumerate(splits)]
    write_table("data/prepared/demonstrations.parquet", DEMONSTRATION, with_ids(DEMONSTRATION, rows, "t"))
    monkeypatch.setattr(refill, "served", lambda _: (Path("models/sft"), "sft"))
    return load_settings(ROOT / "params.yaml")


def answer(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    """Have the policy give these texts to every prompt."""

    def candidates(_: Any, posts: list[dict[str, Any]], __: Any) -> list[list[str]]:
        return [list(dict.fromkeys([post["completion"], *texts])) for post in posts]

    monkeypatch.setattr(refill, "candidates", candidates)


def test_a_queue_holds_training_and_validation_prompts_that_nobody_was_asked_about(
    settings: Settings, sqlite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, [" one", " two"])
    assert refill.refill(sqlite, settings, Path("."), 1, 4) == 5
    assert refill.refill(sqlite, settings, Path("."), 2, 40) == 6
    assert refill.refill(sqlite, settings, Path("."), 3, 40) == 0  # nobody is left to ask


def test_a_round_may_end_with_nothing_to_rank(
    settings: Settings, sqlite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every output is empty or says what the reference says: no two texts are left to compare."""
    answer(monkeypatch, [])
    assert refill.refill(sqlite, settings, Path("."), 1, 4) == 0
    assert refill.find_queue(sqlite, settings.collect.labels.project, 1) is None
    answer(monkeypatch, [" now it differs"])
    assert refill.refill(sqlite, settings, Path("."), 1, 4) == 5


def test_outputs_of_a_conversation_are_ranked_as_its_next_turn(
    settings: Settings, sqlite: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    chat = {"prompt": transcript(messages), "messages": messages, "completion": "Hello.\n"}
    rows = [chat | {"split": "train"}, {"prompt": "plain", "completion": " ref", "split": "train"}]
    write_table("data/prepared/demonstrations.parquet", DEMONSTRATION, with_ids(DEMONSTRATION, rows, "t"))
    answer(monkeypatch, [" one"])
    assert refill.refill(sqlite, settings, Path("."), 1, 4) == 2
    with sqlite.read() as tx:
        kept = {row.prompt: (row.messages, row.outputs) for row in tx.execute(sa.select(items))}
    assert kept == {chat["prompt"]: (messages, ["Hello.\n", " one"]), "plain": (None, ["ref", "one"])}
