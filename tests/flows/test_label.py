"""What the labeling app starts with on this checkout's data."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from flows import label
from labeling.schema import KINDS, items
from labeling.schema import queues as queue_table
from labeling.store import Store
from rlhf.data.contracts import COMPARISON, with_ids
from rlhf.data.table import write_table


def test_rankings_without_references_fill_every_queue_but_one(
    sqlite: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A person's own rankings name no policies, so that no output is known to be the reference."""
    columns = dict.fromkeys(COMPARISON.schema.names)
    rows = [
        columns
        | {
            "prompt": f"question {i}",
            "completions": [" yes", " no", " perhaps"],
            "ranking": [1, 2, 3],
            "labeler_id": "p1",
            "split": "train",
        }
        for i in range(5)
    ]
    write_table(tmp_path / "comparisons.parquet", COMPARISON, with_ids(COMPARISON, rows, "test"))
    monkeypatch.setattr(label, "COLLECTED", tmp_path / "comparisons.parquet")
    label.fill(sqlite)
    assert "the queue judge stays empty: no item to judge" in capsys.readouterr().out
    counted = sa.select(queue_table.c.kind, sa.func.count(items.c.id)).join_from(
        queue_table, items, items.c.queue_id == queue_table.c.id, isouter=True
    )
    with sqlite.read() as tx:
        counts = dict(tx.execute(counted.group_by(queue_table.c.kind)).all())
    assert counts.keys() == set(KINDS)
    assert counts.pop("judge") == 0
    assert all(count >= 5 for count in counts.values())
