"""Splits: every prompt is in one of them, however it is spelled and in whichever table it stands.

The rows of all tables are read column by column, and of each only hashes of its prompt are kept, so that a
million prompts take some 70 MB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from rlhf.data.columns import values_of
from rlhf.data.contracts import SPLITS
from rlhf.data.conversations import transcript
from rlhf.data.errors import DataError
from rlhf.data.near_duplicates import HASHES, clusters, sketches
from rlhf.data.normal_form import normal, stripped
from rlhf.data.table import Table
from rlhf.settings import Prepare

_NONE = -1  # a row that carries no split
_SIZE = 16  # bytes of a hash
_SHOWN = 3  # examples


def prompt_key(prompt: str) -> str:
    """What all spellings of a prompt share for the splits: white space and the letters' case do not count.

    It is not `rlhf.data.distinct.spelling`, by which an evaluation counts a question once: that one takes off
    accents, punctuation and invisible characters too, and walks over every character. This one decides where
    data goes: it runs over every row of every table, and has to stay as it is, or prompts of old runs would
    change their split.
    """
    return " ".join(prompt.split()).casefold()


def split_of(prompt: str, settings: Prepare, seed: int) -> str:
    """The split of a prompt that came with none: test and judge by their shares, validation of the rest."""
    return SPLITS[int(_by_place(np.array([_place(prompt, seed)], np.uint64), settings)[0])]


def _place(prompt: str, seed: int) -> int:
    """Where a prompt stands among all, 0 to 2**64."""
    return int(_seeded([prompt], seed).view(">u8")[0, 0])


def _seeded(texts: Iterable[str], seed: int) -> np.ndarray:
    """Hashes of texts under a seed, [texts, 16]; the first half is a text's place."""
    start = f"{seed}\0".encode()
    digests = b"".join(hashlib.sha256(start + text.encode()).digest()[:_SIZE] for text in texts)
    return np.frombuffer(digests, np.uint8).reshape(-1, _SIZE)


def _by_place(places: np.ndarray, settings: Prepare) -> np.ndarray:
    """The numbers of the splits (in `SPLITS`) for places."""
    shares = places.astype(np.float64) / 2**64
    judge = settings.test_share + settings.judge_share
    validation = judge + settings.validation_share * (1 - judge)
    ends = np.array([settings.test_share, judge, validation])
    order = np.array([SPLITS.index(name) for name in ("test", "judge", "validation", "train")])
    return order[np.searchsorted(ends, shares, side="right")]


@dataclass(frozen=True)
class Assigned:
    """The prompts and splits of the rows of all tables, one table behind the other.

    Attributes:
        starts: name of a table -> the place of its first row.
        prompt: number of the row's prompt text, in the order in which they come.
        first: whether the row is the first with its prompt; no row without a prompt is.
        split: number of the row's split in `SPLITS`.
        of_prompt: number of the split of rows with this prompt that carry none.
        near: prompts that are near-duplicates of an earlier one.
        largest: prompts in the largest group of near-duplicates.
        group: for each number of a prompt text the number of its group of near-duplicates and other
            spellings; -1 where it is alone.
        held_back: prompts that the source says are for training and that are not, since it has no rows in
            another split for which the parameters ask.
        apart: prompts whose rows say another split than the most held-out one of their near-duplicates.
        shown: some of them.
    """

    starts: Mapping[str, int]
    prompt: np.ndarray
    first: np.ndarray
    split: np.ndarray
    of_prompt: np.ndarray
    near: int
    largest: int
    group: np.ndarray
    held_back: int
    apart: int
    shown: tuple[str, ...]

    def batches(
        self, name: str, table: Table, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[pa.RecordBatch, slice]]:
        """The batches of a table, each with the places of its rows."""
        begin = self.starts[name]
        for batch in table.batches(columns):
            yield batch, slice(begin, begin + batch.num_rows)
            begin += batch.num_rows


@dataclass(frozen=True)
class _Rows:
    """What is kept of rows: hashes of the prompt, its key and its turns, the place that decides its split,
    and the split that it carries."""

    text: np.ndarray  # [rows, 16]
    key: np.ndarray  # [rows, 16]
    turns: np.ndarray  # [rows, 16]; zeros for plain text
    place: np.ndarray
    carried: np.ndarray
    asked: np.ndarray  # whether the row has a prompt

    @classmethod
    def room(cls, count: int) -> _Rows:
        """Room for so many rows."""
        text, key, turns = (np.empty((count, _SIZE), np.uint8) for _ in range(3))
        places, carried, asked = (np.empty(count, kind) for kind in (np.uint64, np.int8, np.bool_))
        return cls(text, key, turns, places, carried, asked)

    def fill(self, begin: int, rows: _Rows) -> None:
        """Put rows in their place."""
        for column in fields(self):
            part = getattr(rows, column.name)
            getattr(self, column.name)[begin : begin + len(part)] = part


def assign_splits(tables: Mapping[str, Table], settings: Prepare, seed: int) -> Assigned:
    """The splits of all rows.

    A row that carries a split keeps it, and the rows of its prompt that carry none get the most held-out one
    that any of them carries, however the prompt is spelled (`prompt_key`). Other prompts are assigned by a
    seeded hash of their first spelling, so that adding prompts moves no other. A conversation that goes on
    from another row's prompt is in that prompt's split, because it tells what was answered there. With
    `settings.near_duplicates`, prompts with that share of words in common go to one split as well.

    Many data sets have splits for training and test alone. Where the parameters ask for a share for another
    split, and no row is in it, the share is taken of the rows for training.

    Args:
        tables: name -> rows with a prompt, before their normal form.
        settings: the shares, and what counts as near.
        seed: of the assignment.

    Raises:
        DataError: one prompt text stands for two conversations.
    """
    conversations: list[tuple[int, list[bytes]]] = []
    starts, begin = {}, 0
    rows = _Rows.room(sum(map(len, tables.values())))
    for name, table in tables.items():
        starts[name] = begin
        for batch in table.batches(["prompt", "messages", "split"]):
            rows.fill(begin, _read(normal(batch), seed, begin, conversations))
            begin += batch.num_rows
    prompt = _numbers(rows.text)
    first = _firsts(prompt) & rows.asked
    _one_conversation_a_prompt(tables, starts, rows, prompt)

    keys = _of_whole_conversations(rows.key, conversations)
    key = _numbers(keys)
    decides = rows.asked & ((rows.turns == 0).all(axis=1) | (keys == rows.key).all(axis=1))
    count = int(key.max(initial=-1)) + 1
    place = np.full(count, _place("", seed), np.uint64)
    deciding = np.flatnonzero(decides)[::-1]
    place[key[deciding]] = rows.place[deciding]  # the first of equal keys is written last
    carried = np.full(count, _NONE, np.int8)
    np.maximum.at(carried, key[rows.asked], rows.carried[rows.asked])
    near, largest, apart = 0, 0, np.empty(0, np.int64)
    together_with = np.full(int(prompt.max(initial=-1)) + 1, _NONE)
    if settings.near_duplicates is not None and count:
        group = _near(tables, key, _firsts(key) & rows.asked, settings.near_duplicates)
        together = np.full(count, _NONE, np.int8)
        np.maximum.at(together, group, carried)
        apart = np.flatnonzero((carried != _NONE) & (carried != together[group]))
        place, carried = place[group], np.where(carried == _NONE, together[group], carried)
        apiece = first & decides  # what a conversation goes on with is no near-duplicate of its beginning
        together_with[prompt[apiece]] = group[key[apiece]]
        together_with[np.bincount(group[key[apiece]], minlength=count)[together_with] < 2] = _NONE
        near, largest = int((group != np.arange(count)).sum()), int(np.bincount(group).max())
    train = SPLITS.index("train")
    own = _of_training(place, rows.carried, settings)
    held_back = int(((carried == train) & (own != train)).sum())
    carried = np.where(carried == train, own, carried)
    by_prompt = np.where(carried == _NONE, _by_place(place, settings), carried)
    of_prompt = by_prompt[key].astype(np.int8)
    said = np.where(rows.carried == train, own[key], rows.carried)
    split = np.where(said == _NONE, of_prompt, said)
    rows_apart = np.sort(np.flatnonzero(_firsts(key))[apart])[:_SHOWN]
    shown = tuple(chain.from_iterable(_prompts(tables, rows_apart)))
    return Assigned(
        starts, prompt, first, split, of_prompt, near, largest, together_with, held_back, len(apart), shown
    )


def _of_training(place: np.ndarray, carried: np.ndarray, settings: Prepare) -> np.ndarray:
    """The splits of prompts that the source says are for training: that, unless the source lacks another."""
    there = {SPLITS[number] for number in np.unique(carried) if number != _NONE} - {"train"}
    return _by_place(place, settings.model_copy(update={f"{name}_share": 0.0 for name in there}))


def _read(
    batch: pa.RecordBatch, seed: int, begin: int, conversations: list[tuple[int, list[bytes]]]
) -> _Rows:
    """What is kept of a batch; `conversations` gets, for rows with messages, the hashes of the beginnings
    that may be prompts themselves, the whole conversation last."""
    encoded = batch.column("prompt").fill_null("").dictionary_encode()
    which, texts = encoded.indices.to_numpy(), values_of(encoded.dictionary)
    hashes = _seeded(texts, seed)
    keys = list(map(prompt_key, texts))
    spelled = np.flatnonzero([key != text for key, text in zip(keys, texts, strict=True)])
    key = hashes.copy()
    key[spelled] = _seeded((keys[number] for number in spelled.tolist()), seed)
    turns = np.zeros((batch.num_rows, _SIZE), np.uint8)
    if batch.column("messages").null_count < batch.num_rows:
        for i, messages in enumerate(values_of(batch.column("messages"))):
            if messages is not None:
                told = "\0".join(part for turn in messages for part in (turn["role"], turn["content"]))
                turns[i] = _seeded([told], seed)[0]
                if messages:
                    conversations.append((begin + i, _beginnings(messages, seed)))
    number = {name: i for i, name in enumerate(SPLITS)}
    splits = batch.column("split").dictionary_encode()
    known = np.array([number.get(name, _NONE) for name in splits.dictionary.to_pylist()] or [_NONE], np.int8)
    carried = np.where(splits.is_null(), _NONE, known[splits.indices.fill_null(0).to_numpy()])
    return _Rows(
        text=hashes[which],
        key=key[which],
        turns=turns,
        place=hashes.view(">u8")[:, 0].astype(np.uint64)[which],
        carried=carried.astype(np.int8),
        asked=np.array([bool(text) for text in texts], bool)[which],
    )


def _numbers(hashes: np.ndarray) -> np.ndarray:
    """Equal hashes as equal numbers, from 0 in the order in which they come."""
    buffer = pa.py_buffer(np.ascontiguousarray(hashes))
    column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(_SIZE), len(hashes), [None, buffer])
    return column.dictionary_encode().indices.to_numpy().astype(np.int64)


def _firsts(numbers: np.ndarray) -> np.ndarray:
    """Whether each of `_numbers` is the first of its kind."""
    before = np.concatenate([[-1], np.maximum.accumulate(numbers)])[:-1]
    return numbers > before


def _beginnings(messages: Sequence[Mapping[str, Any]], seed: int) -> list[bytes]:
    """The hashes of the beginnings of a conversation that wait for an answer, the whole of it last."""
    ends = [i for i in range(1, len(messages)) if messages[i]["role"] == "assistant"]
    keys = (prompt_key(transcript(messages[:end])) for end in [*ends, len(messages)])
    return [hashed.tobytes() for hashed in _seeded(keys, seed)]


def _of_whole_conversations(keys: np.ndarray, conversations: Sequence[tuple[int, list[bytes]]]) -> np.ndarray:
    """The hashes of the keys that rows go by: of the prompt, or of the shortest beginning of the row's
    conversation that is a prompt itself."""
    if not conversations:
        return keys
    keys, own = keys.copy(), keys
    key_of: dict[bytes, int] = {}
    for row, starts in conversations:
        key_of.setdefault(starts[-1], row)
    for row, starts in conversations:
        keys[row] = own[next(key_of[start] for start in starts if start in key_of)]
    return keys


def _near(tables: Mapping[str, Table], key: np.ndarray, first: np.ndarray, threshold: float) -> np.ndarray:
    """For each key, the first key whose prompt is a near-duplicate of its prompt, or itself."""
    where = np.flatnonzero(first)  # rows, one for each key that has a prompt, in the order of the keys
    drawn, filled = np.empty((len(where), HASHES), np.uint8), 0
    for prompts in _prompts(tables, where):
        drawn[filled : filled + len(prompts)] = sketches(prompts)
        filled += len(prompts)
    groups = clusters(drawn, threshold, lambda places: list(chain(*_prompts(tables, where[places]))))
    near = np.arange(int(key.max()) + 1)
    near[key[where]] = key[where[groups]]
    return near


def _prompts(tables: Mapping[str, Table], rows: np.ndarray) -> Iterator[list[str]]:
    """The prompts of rows, counted over all tables, in ascending order."""
    begin = 0
    for table in tables.values():
        own = rows[(rows >= begin) & (rows < begin + len(table))] - begin
        for batch in table.take(own).batches(["prompt"]):
            yield values_of(stripped(batch.column("prompt")))
        begin += len(table)


def _one_conversation_a_prompt(
    tables: Mapping[str, Table], starts: Mapping[str, int], rows: _Rows, prompt: np.ndarray
) -> None:
    """Refuse a prompt text that stands for two conversations: people and judges see only the text, and by it
    splits, facts and judgments belong together."""
    first = np.flatnonzero(_firsts(prompt))[prompt]
    other = np.flatnonzero(rows.asked & (rows.turns != rows.turns[first]).any(axis=1))
    if not len(other):
        return

    def row_at(place: int) -> tuple[str, dict[str, Any]]:
        name = next(name for name in reversed(list(starts)) if starts[name] <= place and len(tables[name]))
        row = tables[name][place - starts[name]]
        return f"row {place - starts[name] + 1} of {row['source']}", row

    (before, left), (after, right) = row_at(int(first[other[0]])), row_at(int(other[0]))
    none = left["messages"] is None or right["messages"] is None
    raise DataError(
        f"{before} and {after} have the same prompt, {ascii(right['prompt'].strip())[:60]}, but "
        f"{'only one has messages' if none else 'other messages'}; give both the same messages, or each a "
        "prompt text of its own"
    )
