"""Counts of a table: rows and prompts by split, words as Python splits them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from rlhf.data.contracts import DEMONSTRATION
from rlhf.data.counts import Counts, words_in


def test_words_are_counted_as_python_splits_them() -> None:
    texts = ["a b", " a\u00a0b\u3000c\n", "", "   ", None, "x" * 9, "a\x1cb\u2028c\u200bd"]
    expected = [len(text.split()) if text else -1 for text in texts]
    assert words_in(pa.array(texts)).tolist() == expected


def test_rows_prompts_and_lengths_are_by_split() -> None:
    counts = Counts(DEMONSTRATION)
    rows = [("p q", " a", "train"), ("p q", " a b c", "train"), ("r", " a", "test"), (None, " ", None)]
    for part, numbers in ((rows[:1], [0]), (rows[1:], [0, 1, 2])):
        batch = pa.RecordBatch.from_pylist(
            [{"prompt": p, "completion": c, "split": s} for p, c, s in part],
            schema=pa.schema([("prompt", pa.string()), ("completion", pa.string()), ("split", pa.string())]),
        )
        counts.add(batch, np.array(numbers))
    lengths = {"prompt_words_mean": 2.0, "prompt_words_max": 2, "completion_words_mean": 2.0}
    figures = counts.by_split()
    assert figures["train"] == {"rows": 2, "prompts": 1} | lengths | {"completion_words_max": 3}
    assert figures["test"]["rows"] == figures["test"]["prompts"] == 1
    assert figures["judge"] == {"rows": 0, "prompts": 0}
    assert counts.together()["rows"] == 4
    assert counts.together()["completion_words_mean"] == 1.25  # (1 + 3 + 1 + 0) / 4
