"""Preferences without demonstrations: the best answers serve as such, where params say so."""

from __future__ import annotations

import json
from pathlib import Path

from rlhf.data.files_source import files
from rlhf.data.reading import Source

ROWS = [
    {"prompt": "a", "completions": ["x", "y"], "ranking": [2, 1], "labeler_id": "ann"},
    {"prompt": "a", "completions": ["x", "y"], "ranking": [2, 1], "labeler_id": "bob"},  # the same answer
    {
        "prompt": "b",
        "completions": ["x", "y", "z"],
        "ranking": [1, 1, 2],
        "labeler_id": "ann",
    },  # two are best
    {"prompt": "c", "completions": ["x", "y"], "ranking": [1, 2], "labeler_id": "ann", "split": "test"},
]


def test_the_best_answer_alone_is_a_demonstration_and_only_where_params_say_so(tmp_path: Path) -> None:
    path = tmp_path / "rows" / "comparisons.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert files([Source(str(path))], "-").tables["demonstrations"] == []
    raw = files([Source(str(path), best_answers="demonstrations")], "-")
    shown = [(row["prompt"], row["completion"], row["split"]) for row in raw.tables["demonstrations"]]
    assert shown == [("a", "y", None), ("c", "x", "test")]
    assert len(raw.tables["comparisons"]) == 4
