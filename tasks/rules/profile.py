"""A profile of a table: counts and histograms by which two versions of a data set are compared, and no text.

Columns are counted whole. Words and characters are those of a sample of `SAMPLED` rows at equal distances.
Of prompts the `KEPT` smallest hashes stand for all (bottom-k sketch, Cohen and Kaplan 2007).
"""

from __future__ import annotations

import zlib
from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.columns import values_of
from rlhf.data.near_duplicates import words_of
from tasks.rules.labels import preferences
from tasks.rules.view import View, numpy

SAMPLED = 2000  # rows whose words and characters are counted
KEPT = 256  # hashes of prompts
WORD_BUCKETS = 1024  # words are counted by hash, so that none of them is told
LONGEST = 24  # bins of lengths: 0, 1, 2 to 3, 4 to 7 ... characters
_MOST = 50  # values of a column that are counted by name
_COUNTED = ("source", "split", "labeler_group")
# Kinds of bytes in UTF-8: control and blank, digits, capitals, small letters, signs; what goes on with a
# character; what begins one of two bytes (Latin to Arabic), of three (Indic to Chinese), of four (emoji).
_KIND = np.select(
    [np.arange(256) <= 32]
    + [
        np.isin(np.arange(256), list(part))
        for part in (b"0123456789", bytes(range(65, 91)), bytes(range(97, 123)))
    ]
    + [np.arange(256) < end for end in (128, 192, 224, 240)],
    range(8),
    8,
)
KINDS = 9


def profile(view: View) -> dict[str, Any]:
    """The profile of a table.

    Returns:
        `rows`; `values` of columns, `lengths` of texts, `words` and `characters` as counts; `shares`, name ->
        (how many, of how many); `prompts`, hashes in ascending order.
    """
    names = view.contract.schema.names
    told: dict[str, Any] = {"rows": view.size}
    told["values"] = {name: _values(view, name) for name in _COUNTED if name in names}
    lengths: dict[str, np.ndarray] = {}
    words, kinds = np.zeros(WORD_BUCKETS, np.int64), np.zeros(KINDS, np.int64)
    counted: Counter[bytes] = Counter()
    every, begin = -(-view.size // SAMPLED), 0
    columns = [name for name in ("text", "prompt", "completion", "completions") if name in names]
    for batch in view.batches(columns):
        sample = pa.array(np.arange(-begin % every, batch.size, every))
        for name in columns:
            texts = batch.answers.values if name == "completions" else batch[name]
            bins = np.frexp(numpy(pc.fill_null(pc.utf8_length(texts), 0)))[1]
            bins = np.bincount(np.minimum(bins, LONGEST - 1), minlength=LONGEST)
            lengths[name] = lengths.get(name, 0) + bins
            sampled = values_of(batch[name].take(sample))
            some = [
                text for text in (chain(*filter(None, sampled)) if name == "completions" else sampled) if text
            ]
            kinds += np.bincount(_KIND[np.frombuffer("".join(some).encode(), np.uint8)], minlength=KINDS)
            counted.update(chain.from_iterable(map(words_of, some)))
        begin += batch.size
    for word, count in counted.items():
        words[zlib.crc32(word) % WORD_BUCKETS] += count
    told["lengths"] = {name: bins.tolist() for name, bins in lengths.items()}
    told |= {"words": words.tolist(), "characters": kinds.tolist()}
    told["shares"] = _shares(view)
    if "prompt" in names:
        told["prompts"] = np.unique(view.prompts)[:KEPT].tolist()
    return told


def _values(view: View, name: str) -> dict[str, int]:
    counted = pc.value_counts(view.column(name)).to_pylist()
    counted.sort(key=lambda entry: -entry["counts"])
    values = {str(entry["values"]): entry["counts"] for entry in counted[:_MOST]}
    rest = sum(entry["counts"] for entry in counted[_MOST:])
    return values | ({"(others)": rest} if rest else {})


def _shares(view: View) -> dict[str, tuple[int, int]]:
    """Name -> how many, of how many."""
    if view.name == "votes":
        labels = view.column("label").drop_null()
        return {"thumbs up": (pc.sum(labels).as_py() or 0, len(labels))}
    if view.name != "comparisons":
        return {}
    told = preferences(view)
    decided, first = np.unique(told.row, return_index=True)  # a pair a ranking
    shares = {"ties": (view.size - len(decided), view.size)}
    for name, points in (
        ("first shown preferred", told.before[first]),
        ("longer preferred", told.longer[first]),
    ):
        known = points[~np.isnan(points)]
        shares[name] = (int(known.sum()), len(known))
    return shares
