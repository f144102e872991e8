"""What is in a source, before anything is made of it: its layouts, how much there is, one row to read.

`peek` reads the whole source once and keeps counts, so it takes no more memory for a large one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from textwrap import indent
from typing import Any

from rlhf.data.conversations import transcript
from rlhf.data.errors import DataError
from rlhf.data.files_source import mixed
from rlhf.data.layouts.layout import Item, Notes
from rlhf.data.reading import Quarantined, Recognised, Source
from rlhf.data.splits import prompt_key

LENGTHS = 20_000  # rows of a table whose lengths are measured, because counting tokens is slow
Measure = Callable[[Sequence[Mapping[str, Any]], Sequence[str]], Iterable[int]]


@dataclass
class Table:
    """The counts of one table.

    Attributes:
        rows: how many; splits: rows by split, `none` where neither rows nor files say one.
        prompts: different prompts, however they are spelled; labelers: different people.
        pairs: pairs of outputs that a ranking orders or ties; ties: those that it ties.
        copies: rows that say the same as an earlier one, by whoever.
        lengths: length of prompt and answer together, of the first `LENGTHS` rows; see `Peek.unit`.
    """

    rows: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    prompts: set[bytes] = field(default_factory=set)
    labelers: set[str] = field(default_factory=set)
    pairs: int = 0
    ties: int = 0
    copies: int = 0
    lengths: list[int] = field(default_factory=list)
    _contents: set[bytes] = field(default_factory=set)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row."""
        self.rows += 1
        self.splits[row.get("split") or "none"] += 1
        self.prompts.add(_digest(prompt_key(row.get("prompt") or row.get("text") or "")))
        labeler = row.get("labeler_id") or row.get("judge_id") or row.get("writer_id")
        if labeler is not None:
            self.labelers.add(labeler)
        ranks = [rank for rank in row.get("ranking") or () if rank is not None]
        self.pairs += len(ranks) * (len(ranks) - 1) // 2
        self.ties += sum(n * (n - 1) // 2 for n in Counter(ranks).values())
        said = [row.get(name) for name in ("prompt", "text", "completion", "completions", "ranking", "label")]
        content = _digest(repr(said))
        self.copies += content in self._contents
        self._contents.add(content)


@dataclass
class Peek:
    """What was seen of a source.

    Attributes:
        parts: what its files were recognised as.
        tables: the counts by table, of tables with rows.
        first: the first row with a preference, or else with an answer, or else the first row at all.
        quarantined: rows that cannot be read and would be put aside: how many, and the first few.
        unit: of the lengths: `tokens` of the base, or `words`.
        notes: what a person should see.
    """

    parts: list[Recognised]
    tables: dict[str, Table]
    first: Item
    quarantined: int
    examples: list[Quarantined]
    unit: str
    notes: Notes


def peek(sources: Sequence[Source], measure: Measure | None = None) -> Peek:
    """Read sources and count what they hold.

    Args:
        sources: as `ingest` would read them.
        measure: the tokens of each prompt and answer together; None counts words.

    Raises:
        DataError: what `ingest` would refuse.
    """
    notes = Notes()
    tables: dict[str, Table] = {}
    examples: list[Quarantined] = []
    aside = 0
    first: Item | None = None

    def put_aside(row: Quarantined) -> None:
        nonlocal aside
        aside += 1
        if len(examples) < 3:
            examples.append(row)

    parts: list[Recognised] = []
    waiting: dict[str, list[dict[str, Any]]] = {}
    for item in mixed(sources, notes, put_aside, parts.append):
        if first is None or _says_more(item.table) > _says_more(first.table):
            first = item
        counts = tables.setdefault(item.table, Table())
        counts.add(item.row)
        if counts.rows <= LENGTHS:
            waiting.setdefault(item.table, []).append(item.row)
    if first is None:
        raise DataError("there is nothing to read")
    for table, rows in waiting.items():
        tables[table].lengths = _lengths(rows, measure)
    return Peek(parts, tables, first, aside, examples, "words" if measure is None else "tokens", notes)


_PREFERENCES = ("comparisons", "judgments", "votes")


def _says_more(table: str) -> int:
    """A row with a preference shows more of the reading than one with an answer, and that than a text."""
    return 2 if table in _PREFERENCES else int(table == "demonstrations")


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).digest()


def _lengths(rows: Sequence[Mapping[str, Any]], measure: Measure | None) -> list[int]:
    """The length of each prompt with each of its answers."""
    pairs = [(row, text) for row in rows for text in _answers(row)]
    if measure is not None:
        return list(measure([row for row, _ in pairs], [text for _, text in pairs]))
    return [len((row.get("prompt") or "").split()) + len(text.split()) for row, text in pairs]


def _answers(row: Mapping[str, Any]) -> list[str]:
    if row.get("completions"):
        return [text for text in row["completions"] if text is not None]
    return [row.get("completion") or row.get("output") or row.get("text") or ""]


def summary(lengths: Sequence[int]) -> str:
    """Lengths in a line: half of them, nineteen in twenty, and the longest."""
    if len(lengths) < 2:
        return str(lengths[0]) if lengths else "none"
    cuts = quantiles(lengths, n=20, method="inclusive")
    return f"median {cuts[9]:.0f}, 95 % up to {cuts[18]:.0f}, longest {max(lengths)}"


def readable(item: Item) -> str:
    """A row as a person would read it: what was asked, and which answer is better."""
    row = item.row
    messages = row.get("messages")
    lines = [("prompt", transcript(messages) if messages else row.get("prompt") or row.get("text") or "")]
    if item.table == "judgments":
        lines += [("reference", row["reference"]), ("output", row["output"]), ("preferred", row["preferred"])]
    elif item.table == "votes":
        lines += [("thumb up" if row["label"] else "thumb down", row["completion"])]
    elif item.table == "comparisons":
        ranked = sorted(
            zip(row["ranking"], row["completions"], strict=True), key=lambda pair: (pair[0] is None, pair[0])
        )
        ranks = [rank for rank, _ in ranked if rank is not None]
        for rank, text in ranked:
            tied = " (tie)" if ranks.count(rank) > 1 else ""
            best = " (best)" if rank == 1 and not tied else ""
            lines.append((f"rank {rank}{best}{tied}" if rank is not None else "not ranked", text))
    elif "completion" in row:
        lines.append(("completion", row["completion"]))
    # Further lines of a text stand behind its first, or they would look like lines of this page.
    return "\n".join("  " + indent(f"{name}: {text}", "    ")[4:] for name, text in lines)
