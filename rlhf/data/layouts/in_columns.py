"""Layouts whose records become rows of a contract column by column, without a dict for each.

That is for plain records only, which most are. For a batch in which any is out of the ordinary (a prompt of
messages, a ranking with gaps, an empty line) there is None, and its records are read one by one, by the
layout's own reader; so what is said and refused is the same. Whoever changes such a reader changes this, and
tests/rlhf/data/test_in_columns.py holds the two to the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.contracts import COMPARISON, SPLITS, TABLES
from rlhf.data.layouts.layout import Layout, Options, is_a
from rlhf.data.layouts.values import LABELERS, MISSING

_TEXT = pa.string()
_KEPT = ("labeler_group", "strength", "seconds", "guideline_version", "split", "note", "both_bad", "source")
_ASSISTANT = "Assistant:"  # a prompt that ends so may tell a conversation
Columns = dict[str, pa.Array]


def schema_of(layout: Layout, columns: Mapping[str, str], options: Options) -> pa.Schema | None:
    """The types with which the columns of a file are read; None where its records are read one by one.

    Args:
        layout: of the records.
        columns: those of the first records, name -> kind.
        options: what the user says of them.
    """
    name = layout.name
    if options.keep or options.direction is not None or name not in _READERS:
        return None
    if not set(_NEEDED[name]) <= columns.keys() or len(columns.keys() & set(LABELERS)) > 1:
        return None
    if not all(is_a(columns, column, "text|texts|numbers") for column in _NEEDED[name]):
        return None
    fields = [COMPARISON.schema.field(name) for name in _KEPT]
    if name == "pairs":
        fields += [pa.field(name, _TEXT) for name in ("prompt", "chosen", "rejected")]
        fields.append(pa.field("margin", pa.float64()))
    else:
        fields = [field for field in TABLES[name].schema if field.name != "messages"]
    if name in ("pairs", "comparisons"):
        numbers = {who for who in LABELERS if columns.get(who) == "number"}
        fields += [pa.field(who, pa.int64() if who in numbers else _TEXT) for who in LABELERS]
    present = {field.name: field for field in fields if field.name in columns}
    # What the layout's own reader makes of further columns, it alone knows.
    own, seen = layout.own or frozenset(columns), present.keys() | {"messages"}
    if any(column not in seen and (column in own or column.lower() in own) for column in columns):
        return None
    return pa.schema(list(present.values()))


def in_columns(layout: str, batch: pa.RecordBatch) -> tuple[str, pa.RecordBatch] | None:
    """The table and the rows that a batch of records becomes, without source, split and labelers that it does
    not say; None where a record is out of the ordinary."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    if any(name not in columns or columns[name].null_count for name in _NEEDED[layout]):
        return None
    if "messages" in columns and columns["messages"].null_count < batch.num_rows:
        return None
    if not _splits_known(columns.get("split")) or any(map(_say_nothing, columns.values())):
        return None
    return _READERS[layout](layout, columns)


def _say_nothing(column: pa.Array) -> bool:
    """Whether a text is one of those with which programs say that nothing is there."""
    texts = column.flatten() if column.type == pa.list_(_TEXT) else column
    missing = pa.array(MISSING, _TEXT)
    return texts.type == _TEXT and pc.any(pc.is_in(texts, missing)).as_py() is True


def _splits_known(splits: pa.Array | None) -> bool:
    return splits is None or pc.all(pc.is_in(splits, pa.array([*SPLITS, None], _TEXT))).as_py()


def _labeler(columns: Columns) -> Columns:
    """The labelers, null where nobody is named."""
    who = next((columns[name] for name in LABELERS if name in columns), None)
    if who is None:
        return {}
    who = who.cast(_TEXT)
    return {"labeler_id": pc.if_else(pc.equal(who, ""), None, who)}


def _contract(table: str, columns: Columns) -> tuple[str, pa.RecordBatch] | None:
    names = TABLES[table].schema.names
    told = {name: column for name, column in columns.items() if name in names and name != "messages"}
    if "labeler_id" in names:
        told |= _labeler(columns)
    if "completions" in told and told["completions"].flatten().null_count:
        return None
    if "ranking" in told and not _dense(told["ranking"]):
        return None
    return table, pa.RecordBatch.from_pydict(told)


def _pairs(_: str, columns: Columns) -> tuple[str, pa.RecordBatch] | None:
    prompt, chosen, rejected = (columns[name] for name in ("prompt", "chosen", "rejected"))
    ends = pc.ends_with(pc.utf8_rtrim_whitespace(prompt), pattern=_ASSISTANT)
    if pc.any(ends).as_py() or pc.any(pc.equal(prompt, "")).as_py():
        return None
    if "margin" in columns and pc.any(pc.less(columns["margin"], 0)).as_py():
        return None
    count = len(prompt)
    alternating = pa.array(np.arange(2 * count).reshape(2, -1).T.ravel())
    both = pa.concat_arrays([chosen, rejected]).take(alternating)
    ends_at = pa.array(np.arange(0, 2 * count + 1, 2), pa.int32())
    ranks = pa.array(np.tile([1, 2], count), pa.int64())
    told = {
        "prompt": prompt,
        "completions": pa.ListArray.from_arrays(ends_at, both),
        "ranking": pa.ListArray.from_arrays(ends_at, ranks),
        **{name: columns[name] for name in (*_KEPT, "margin") if name in columns},
        **_labeler(columns),
    }
    return "comparisons", pa.RecordBatch.from_pydict(told)


def _dense(rankings: pa.Array) -> bool:
    """Whether every ranking has ranks from 1 on without gaps."""
    ranks = rankings.flatten()
    lengths = pc.list_value_length(rankings).to_numpy()
    if ranks.null_count or not len(rankings) or not lengths.all():
        return False
    values, rows = ranks.to_numpy(), np.repeat(np.arange(len(lengths)), lengths)
    values = values[np.lexsort((values, rows))]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    step = np.diff(values, prepend=values[:1])
    step[starts] = values[starts]  # the first must be 1
    inside = np.ones(len(values), bool)
    inside[starts] = False
    return bool((step[starts] == 1).all() and ((step == 0) | (step == 1))[inside].all())


_NEEDED: Mapping[str, tuple[str, ...]] = {
    "comparisons": ("prompt", "completions", "ranking"),
    "demonstrations": ("prompt", "completion"),
    "prompts": ("prompt",),
    "corpus": ("text",),
    "pairs": ("prompt", "chosen", "rejected"),
}
_READERS: Mapping[str, Callable[[str, Columns], tuple[str, pa.RecordBatch] | None]] = {
    **dict.fromkeys(_NEEDED, _contract),
    "pairs": _pairs,
}
