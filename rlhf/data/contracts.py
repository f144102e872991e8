"""The row types that travel between stages: their columns, and the id of a row.

Every row carries `source` and an `id`, the hash of its content columns. Stages write and read tables with
`rlhf.data.table`; what people bring is read by `rlhf.data.reading`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import orjson
import pyarrow as pa

_TEXT, _TEXTS, _INTS = pa.string(), pa.list_(pa.string()), pa.list_(pa.int64())
# A conversation before its answer, `prompt` in turns; null where the prompt is plain text.
_MESSAGES = ("messages", pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)])))
# `extra`: the columns that a user's params keep, as JSON.
_META = [("source", _TEXT), ("extra", _TEXT), ("id", _TEXT)]


@dataclass(frozen=True)
class Contract:
    """One row type.

    Attributes:
        name: singular name, used in messages.
        schema: columns and Arrow types, in order.
        content: the columns whose values make the id; where a row has `messages`, they count as well.
        required: columns that a user's file must bring.
    """

    name: str
    schema: pa.Schema
    content: tuple[str, ...]
    required: tuple[str, ...]


CORPUS = Contract("text", pa.schema([("text", _TEXT), *_META]), ("text",), ("text",))
PROMPT = Contract(
    "prompt",
    pa.schema([("prompt", _TEXT), _MESSAGES, ("topic", _TEXT), ("split", _TEXT), *_META]),
    ("prompt",),
    ("prompt",),
)
DEMONSTRATION = Contract(
    "demonstration",
    pa.schema(
        [
            ("prompt", _TEXT),
            _MESSAGES,
            ("completion", _TEXT),
            ("writer_id", _TEXT),
            ("split", _TEXT),
            *_META,
        ]
    ),
    ("prompt", "completion", "writer_id"),
    ("prompt", "completion"),
)
COMPARISON = Contract(
    "comparison",
    pa.schema(
        [
            ("prompt", _TEXT),
            _MESSAGES,
            ("completions", _TEXTS),
            ("ranking", _INTS),
            ("labeler_id", _TEXT),
            ("labeler_group", _TEXT),
            ("strength", pa.int64()),
            # What the ranking was made of, where numbers were given: a score for each completion (higher is
            # better), and by how much the best is preferred to the next.
            ("scores", pa.list_(pa.float64())),
            ("margin", pa.float64()),
            ("both_bad", pa.bool_()),  # a tie of which the labeler said that no completion will do
            ("note", _TEXT),
            ("policies", _TEXTS),
            ("shown_order", _INTS),
            ("seconds", pa.float64()),
            ("guideline_version", _TEXT),
            ("split", _TEXT),
            *_META,
        ]
    ),
    ("prompt", "completions", "ranking", "labeler_id"),
    ("prompt", "completions", "ranking"),
)
JUDGMENT = Contract(
    "judgment",
    pa.schema(
        [
            ("prompt", _TEXT),
            _MESSAGES,
            ("reference", _TEXT),
            ("output", _TEXT),
            ("policy", _TEXT),
            ("preferred", _TEXT),
            ("judge_id", _TEXT),
            ("judge_kind", _TEXT),
            ("shown_order", _INTS),
            ("split", _TEXT),
            *_META,
        ]
    ),
    ("prompt", "reference", "output", "policy", "judge_id"),
    ("prompt", "reference", "output", "policy", "preferred"),
)
VOTE = Contract(
    "vote",
    pa.schema(
        [
            ("prompt", _TEXT),
            _MESSAGES,
            ("completion", _TEXT),
            ("label", pa.bool_()),  # true: thumbs up
            ("labeler_id", _TEXT),
            ("labeler_group", _TEXT),
            ("split", _TEXT),
            *_META,
        ]
    ),
    ("prompt", "completion", "label", "labeler_id"),
    ("prompt", "completion", "label"),
)
SNAPSHOT = Contract(
    "snapshot row",
    pa.schema(
        [
            ("update", pa.int64()),  # 0 is the start
            ("n", pa.int64()),  # the output has the best score of n samples; 1 along PPO
            ("prompt", _TEXT),
            _MESSAGES,
            ("reference", _TEXT),
            ("output", _TEXT),
            ("score", pa.float64()),  # by the reward model
            # Log-probability of the output minus that under the start policy, in nats; for n > 1, the KL of
            # best-of-n to it.
            ("kl", pa.float64()),
            *_META,
        ]
    ),
    ("update", "n", "prompt", "output"),
    ("update", "n", "prompt", "reference", "output"),
)
GOLD = Contract(
    "gold row",
    pa.schema([("prompt", _TEXT), ("facts", _TEXT), *_META]),
    ("prompt", "facts"),
    ("prompt", "facts"),
)  # facts: JSON of fact type -> value; only judges and simulated labelers read it
PREFERENCES = ("output", "tie", "reference")  # what a judgment may say
SPLITS = ("train", "validation", "judge", "test")
TABLES = {
    "corpus": CORPUS,
    "demonstrations": DEMONSTRATION,
    "prompts": PROMPT,
    "comparisons": COMPARISON,
    "votes": VOTE,
}


def row_id(contract: Contract, row: dict[str, Any]) -> str:
    """The stable id of a row: 16 hex digits of the SHA-256 over its content columns.

    Messages are hashed where there are any, so that rows of plain text have the ids that they always had.
    """
    content = [row.get(column) for column in contract.content]
    if row.get("messages") is not None:
        content.append([[turn["role"], turn["content"]] for turn in row["messages"]])
    return id_of(content)


def id_of(content: Any) -> str:
    """The id of a row's content: its content columns in order, and its messages where it has some."""
    return hashlib.sha256(_json(content)).hexdigest()[:16]


def _json(value: Any) -> bytes:
    """JSON as `json.dumps(value, ensure_ascii=False)` writes it. For texts orjson writes the same three times
    as fast; between items it writes no spaces."""
    if type(value) is str:
        try:
            return orjson.dumps(value)
        except TypeError:  # half of a surrogate pair: the encoding below refuses it
            return json.dumps(value, ensure_ascii=False).encode()
    if type(value) is list or type(value) is tuple:
        return b"[" + b", ".join(map(_json, value)) + b"]"
    return json.dumps(value, ensure_ascii=False).encode()


def with_ids(contract: Contract, rows: list[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """Rows with `source` and `id` filled in where they are missing; ids that rows bring are checked later."""
    return [
        {**row, "source": row.get("source") or source, "id": row.get("id") or row_id(contract, row)}
        for row in rows
    ]


def exact(value: Any, kind: pa.DataType) -> Any:
    """A value as a column of this type holds it, where that is the same value: 2.0 is the whole number 2.

    pyarrow would take more: it cuts 2.5 to 2, splits the text "sft" into three letters where a column wants a
    list, and drops the keys of an object that a column has no field for.

    Raises:
        ValueError: the column cannot hold this value.
    """
    if value is None:
        return None
    if pa.types.is_list(kind):
        if isinstance(value, (list, tuple)):
            return [exact(item, kind.value_type) for item in value]
    elif pa.types.is_struct(kind):
        names = [field.name for field in kind]
        # A key that the column lacks says nothing where it is null: Parquet fills up all keys with null.
        if isinstance(value, Mapping) and all(value[key] is None for key in value if key not in names):
            return {field.name: exact(value.get(field.name), field.type) for field in kind}
    elif pa.types.is_boolean(kind):
        if isinstance(value, bool):
            return value
    elif pa.types.is_string(kind):
        if isinstance(value, str):
            value.encode()  # JSON can spell half of a surrogate pair, text cannot hold it
            return value
    elif isinstance(value, Real) and not isinstance(value, bool):
        number: Any = value  # for mypy a Real has no arithmetic; NumPy's numbers are Real too
        if abs(number) < float("inf"):  # NaN is not
            try:
                typed = int(number) if pa.types.is_integer(kind) else float(number)
            except OverflowError:
                raise ValueError(f"{ascii(value)[:60]} is no {kind}") from None
            if typed == number and (isinstance(typed, float) or -(2**63) <= typed < 2**63):
                return typed
    raise ValueError(f"{value!r} is no {kind}")
