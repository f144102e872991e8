"""Files as a source: whatever lies at the paths, in any layout, as the tables of the contracts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from rlhf.data.block_reading import Portion
from rlhf.data.contracts import DEMONSTRATION, JUDGMENT, TABLES, row_id
from rlhf.data.errors import DataError
from rlhf.data.formats.parts import parts
from rlhf.data.layouts.layout import Item, Notes
from rlhf.data.lone_turns import in_turns
from rlhf.data.plural import plural
from rlhf.data.reading import PutAside, Quarantined, Recognised, Source, passed_over, read_any
from rlhf.data.sources import Raw, Rows
from rlhf.data.table import TableWriter, read_table

_CONTRACTS = {**TABLES, "judgments": JUDGMENT}
QUARANTINE = "quarantine.jsonl"
MOST_LIKED = 50_000  # texts of a corpus that is made of preferences


@dataclass(frozen=True)
class Written:
    """What `write_files` wrote.

    Attributes:
        rows: table -> how many.
        judgments: rows of the JUDGMENT contract, which are few and have a place of their own.
        quarantined: records that were put aside, in `QUARANTINE`.
        notes: lines that a person should see.
    """

    rows: dict[str, int]
    judgments: Rows
    quarantined: int
    notes: tuple[str, ...]


def write_files(sources: Sequence[Source], folder: Path) -> Written:
    """Write all rows of sources into a folder as they are read, so that memory does not grow with them.

    Args:
        sources: in the order of the rows.
        folder: gets a Parquet file for each name of `contracts.TABLES`, and `QUARANTINE` where records were
            put aside. Without a corpus the demonstrations serve as one, and without those what people
            preferred.

    Raises:
        DataError: what cannot be read, naming file and row; or all of it was passed over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    notes, judgments, aside = Notes(), [], 0
    with ExitStack() as stack:
        quarantine = stack.enter_context((folder / QUARANTINE).open("w", encoding="utf-8", errors="replace"))

        def put_aside(row: Quarantined) -> None:
            nonlocal aside
            aside += 1
            quarantine.write(json.dumps(_aside(row), ensure_ascii=False, default=str) + "\n")

        writers = {
            name: stack.enter_context(TableWriter(folder / f"{name}.parquet", contract))
            for name, contract in TABLES.items()
        }
        counts = dict.fromkeys(writers, 0)
        for item in mixed_in_portions(sources, notes, put_aside):
            if isinstance(item, Portion):
                counts[item.table] += item.batch.num_rows
                writers[item.table].write_batch(item.batch)
            elif item.table == "judgments":
                judgments.append(item.row)
            else:
                counts[item.table] += 1
                writers[item.table].write((item.row,))
        _refuse_nothing(sources, notes, bool(judgments) or any(counts.values()))
    if not aside:
        (folder / QUARANTINE).unlink()
    if not counts["corpus"]:
        told = {
            name: read_table(folder / f"{name}.parquet", TABLES[name])
            for name in ("demonstrations", "comparisons", "votes")
        }
        with TableWriter(folder / "corpus.parquet", TABLES["corpus"]) as corpus:
            corpus.write(_as_corpus(told["demonstrations"] or liked(told["comparisons"], told["votes"])))
        counts["corpus"] = len(read_table(folder / "corpus.parquet", TABLES["corpus"]))
    if changed := in_turns(folder):
        notes.say(
            f"{plural(changed, 'row', 'have')} as a text what others have as a lone turn of a conversation, "
            "and went to that conversation"
        )
    return Written(counts, judgments, aside, tuple(notes.lines()))


def files(sources: Sequence[Source], revision: str) -> Raw:
    """All rows of sources, in hand: for few of them. The corpus is as `write_files` makes it.

    Args:
        sources: in the order of the rows.
        revision: the hash of all of them.

    Raises:
        DataError: what cannot be read, naming file and row; or all of it was passed over.
    """
    tables: dict[str, Rows] = {name: [] for name in (*TABLES, "judgments")}
    quarantine: list[Quarantined] = []
    notes = Notes()
    for item in mixed(sources, notes, quarantine.append):
        tables[item.table].append(item.row)
    _refuse_nothing(sources, notes, any(tables.values()))
    judgments = tables.pop("judgments")
    if not tables["corpus"]:
        told = tables["demonstrations"] or liked(tables["comparisons"], tables["votes"])
        tables["corpus"] = list(_as_corpus(told))
    aside = [_aside(row) for row in quarantine]
    return Raw(tables, [], f"sha256 {revision}", tuple(notes.lines()), judgments, aside)


def liked(
    comparisons: Iterable[Mapping[str, Any]], votes: Iterable[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """What people preferred, as demonstrations: the best answer of each ranking, and each that was voted up.

    The first `MOST_LIKED` are enough of a corpus where nobody brought one.
    """
    return islice(_liked(comparisons, votes), MOST_LIKED)


def _liked(
    comparisons: Iterable[Mapping[str, Any]], votes: Iterable[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    for row in comparisons:
        if row["completions"] and 1 in (row["ranking"] or ()):
            yield {**row, "completion": row["completions"][row["ranking"].index(1)]}
    for row in votes:
        if row["label"]:
            yield dict(row)


def _refuse_nothing(sources: Sequence[Source], notes: Notes, read_any: bool) -> None:
    if not read_any:
        read_from = ", ".join(source.path for source in sources)
        raise DataError(f"{read_from}: nothing in it could be read{passed_over(notes)}")


def mixed(
    sources: Sequence[Source],
    notes: Notes,
    put_aside: PutAside,
    saw: Callable[[Recognised], None] = lambda told: None,
) -> Iterator[Item]:
    """The rows of all sources as items of tables, source after source.

    Of a source with a weight below 1 a row is taken or not by the hash of its content, so that the same rows
    are taken on every machine and whatever else is mixed; rows that say that they are held out always are.

    Args:
        sources: in the order of the rows.
        notes: gets what a person should see.
        put_aside: gets the records that cannot be read, where a source quarantines them.
        saw: gets each part with its layout.

    Raises:
        DataError: what cannot be read, naming file and row.
    """
    for item in mixed_in_portions(sources, notes, put_aside, saw, in_portions=False):
        assert isinstance(item, Item)
        yield item


def mixed_in_portions(
    sources: Sequence[Source],
    notes: Notes,
    put_aside: PutAside,
    saw: Callable[[Recognised], None] = lambda told: None,
    in_portions: bool = True,
) -> Iterator[Item | Portion]:
    """The same as `mixed`, with plain rows as portions of a table where a source can be read so."""
    shown: set[str] = set()
    for source in with_splits(sources, notes):
        left = total = 0
        every = in_portions and source.weight >= 1 and source.best_answers == "comparisons"
        for item in read_any(source, notes, put_aside, saw, every):
            if isinstance(item, Portion):
                yield item
                continue
            for row in as_tables(item):
                if row.table == "comparisons" and prefers_nothing(row.row["ranking"]):
                    what = "comparisons that rank fewer than two completions, so that they prefer nothing"
                    notes.pass_over(what, item.where, row.row["ranking"])
                    continue
                total += 1
                if source.weight < 1 and not _taken(row, source.weight):
                    left += 1
                    continue
                yield row
                if row.table == "comparisons" and source.best_answers == "demonstrations":
                    yield from best_answer(row, shown)
        if left:
            notes.say(
                f"{source.path}: {left} of {total} rows left out, as its weight {source.weight:g} says; rows "
                "that say that they are held out are all taken"
            )


def with_splits(sources: Sequence[Source], notes: Notes) -> list[Source]:
    """Sources that take splits from the names of files only where these say more than one.

    A lone `train.jsonl` does not say what is held out. If all its rows went into training, nothing would be
    left to validate and evaluate on.
    """
    said = {source.split or part.split for source in sources for part in parts(source.path)}
    if len(said) > 1 or said == {None} or any(source.split for source in sources):
        return list(sources)
    [split] = said
    notes.say(
        f"all files are called {split}, so the names say no splits: the shares of the parameters make them"
    )
    return [replace(source, named_splits=False) for source in sources]


def _taken(item: Item, weight: float) -> bool:
    if item.row.get("split") not in (None, "train"):
        return True
    return int(row_id(_CONTRACTS[item.table], item.row), 16) < weight * 2**64


def _aside(row: Quarantined) -> dict[str, Any]:
    """A record in quarantine as it is written: file, row, the rule that it breaks, why, and what it says."""
    file, _, place = row.where.rpartition(": ")
    return {"file": file, "row": place, "rule": "readable", "why": row.why, "record": row.record}


def prefers_nothing(ranking: Sequence[int | None] | None) -> bool:
    """Whether a ranking leaves all of its outputs but one, or all, unranked."""
    ranking = ranking or []
    return None in ranking and len(ranking) - ranking.count(None) < 2


def best_answer(comparison: Item, shown: set[str]) -> Iterator[Item]:
    """The best completion of a comparison as a demonstration, for preferences that come without any; none
    where several share the first rank. What is ranked below never becomes one.

    Args:
        comparison: a row of that table.
        shown: ids of the demonstrations so far, so that a pair which several people ranked gives one.
    """
    row = comparison.row
    if row["ranking"].count(1) != 1:
        return
    best = row["completions"][row["ranking"].index(1)]
    kept = {name: row.get(name) for name in ("prompt", "messages", "split", "source")}
    new = kept | {"completion": best, "writer_id": None}
    key = row_id(DEMONSTRATION, new)
    if key not in shown:
        shown.add(key)
        yield comparison._replace(table="demonstrations", row=new)


def as_tables(item: Item) -> list[Item]:
    """An item as rows of tables: an edit is a demonstration, and better than the output it was made of."""
    if item.table != "edits":
        return [item]
    row = dict(item.row)
    output, text, labeler = row.pop("output"), row.pop("text"), row.pop("labeler_id", None)
    policy = row.pop("policy", None) or ""
    kept = {name: row.get(name) for name in ("prompt", "messages", "split", "source", "extra")}
    rows = [Item("demonstrations", kept | {"completion": text, "writer_id": labeler})]
    if output is not None and output != text:
        rows.append(
            Item(
                "comparisons",
                row
                | {
                    "completions": [text, output],
                    "ranking": [1, 2],
                    "labeler_id": labeler,
                    "policies": ["edit", policy],
                },
            )
        )
    return rows


def _as_corpus(demonstrations: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return ({"text": _whole(row), "source": row["source"]} for row in demonstrations)


def _whole(row: dict[str, Any]) -> str:
    """A demonstration as one text, which opens with its prompt."""
    prompt, completion = row["prompt"] or "", row["completion"] or ""
    if row.get("messages") is None:
        return f"{prompt} {completion.strip()}"
    return f"{prompt}\n\nAssistant: {completion}"
