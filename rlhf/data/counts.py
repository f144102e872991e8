"""What is in a table: rows and prompts by split, and the lengths of its texts in words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.byte_kinds import holding, not_ascii, raw
from rlhf.data.contracts import SPLITS, Contract

_MEASURED = ("text", "prompt", "completion")


class Counts:
    """Counts the rows of a table, a batch at a time.

    Args:
        contract: of the rows.
    """

    def __init__(self, contract: Contract) -> None:
        self._columns = [name for name in _MEASURED if name in contract.content]
        self._splits = [np.empty(0, np.int64)]
        self._prompts = [np.empty(0, np.int64)]
        self._words: dict[str, list[np.ndarray]] = {name: [np.empty(0, np.int32)] for name in self._columns}

    def add(self, batch: pa.RecordBatch, prompts: np.ndarray) -> None:
        """Count rows.

        Args:
            batch: the rows; without a column `split` they are of none.
            prompts: the number of each row's prompt.
        """
        splits = np.full(batch.num_rows, -1)
        if "split" in batch.schema.names:
            places = pc.index_in(batch.column("split"), value_set=pa.array(SPLITS))
            splits = places.fill_null(-1).to_numpy()
        self._splits.append(splits)
        self._prompts.append(prompts)
        for name in self._columns:
            self._words[name].append(words_in(batch.column(name)))

    def by_split(self) -> dict[str, dict[str, float]]:
        """For each split `rows`, `prompts`, and the mean and longest length of each text column in words."""
        splits, prompts = np.concatenate(self._splits), np.concatenate(self._prompts)
        figures: dict[str, dict[str, float]] = {}
        for number, split in enumerate(SPLITS):
            mine = splits == number
            figures[split] = {"rows": int(mine.sum()), "prompts": len(np.unique(prompts[mine]))}
            figures[split] |= self._lengths(mine)
        return figures

    def together(self) -> dict[str, float]:
        """`rows` of all splits and none, and the lengths."""
        every = np.ones(sum(map(len, self._splits)), bool)
        return {"rows": len(every)} | self._lengths(every)

    def _lengths(self, rows: np.ndarray) -> dict[str, float]:
        figures: dict[str, float] = {}
        for name in self._columns:
            words = np.concatenate(self._words[name])[rows]
            words = words[words >= 0]
            if len(words):
                figures[f"{name}_words_mean"] = round(float(words.mean()), 2)
                figures[f"{name}_words_max"] = int(words.max())
        return figures


def words_in(texts: pa.Array) -> np.ndarray:
    """The number of words of each text, as `len(text.split())` has it; -1 for null and the empty text."""
    if not holding(texts, not_ascii).any():
        return _ascii_words_in(texts)
    trimmed = pc.utf8_trim_whitespace(texts)
    words = pc.list_value_length(pc.utf8_split_whitespace(trimmed))
    words = pc.if_else(pc.equal(trimmed, ""), 0, words)
    return pc.fill_null(pc.if_else(pc.equal(texts, ""), -1, words), -1).to_numpy().astype(np.int32)


def _ascii_words_in(texts: pa.Array) -> np.ndarray:
    offsets, content = raw(texts)
    space = (content == 32) | ((content >= 9) & (content <= 13)) | ((content >= 28) & (content <= 31))
    begins = ~space
    begins[1:] &= space[:-1]
    filled = np.flatnonzero(np.diff(offsets))
    begins[offsets[filled]] = ~space[offsets[filled]]  # whatever the text before ends in
    words = np.full(len(texts), -1, np.int32)
    words[filled] = np.add.reduceat(begins, offsets[filled], dtype=np.int32) if len(filled) else 0
    if texts.null_count:
        words[texts.is_null().to_numpy(zero_copy_only=False)] = -1
    return words
