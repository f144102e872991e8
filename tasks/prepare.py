"""Bring rows to the contracts and split them by prompt: `python -m tasks.prepare`.

Reads data/raw, writes data/prepared (the same tables; which prompts are near-duplicates of each other, where
some are) and metrics/prepare.json. No row is lost but corpus
texts that are empty, repeat an earlier one or give away what is held out; whether the rest may be trained on
is for `validate` to say. The prompts of all tables are read first, for the splits, and then each table once
more, a group of rows at a time.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.columns import values_of
from rlhf.data.contracts import CORPUS, SPLITS, TABLES
from rlhf.data.counts import Counts
from rlhf.data.files import write_json, written_beside
from rlhf.data.held_out import HeldOut
from rlhf.data.normal_form import Ids, normal
from rlhf.data.plural import plural
from rlhf.data.splits import Assigned, assign_splits
from rlhf.data.table import Table, TableWriter, ahead, read_table, write_table
from rlhf.settings import Prepare, Settings
from tasks.fitting import fit
from tasks.rules.catalogue import refuse_unknown
from tasks.rules.groups import Groups
from tasks.rules.quarantine import SET_ASIDE, set_aside
from tasks.rules.rule import Asked
from tasks.rules.view import text_hashes
from tasks.runtime.stage import Stage, run

SPLIT_TABLES = ("prompts", "demonstrations", "comparisons", "votes")
Figures = dict[str, Any]


def main(stage: Stage) -> dict[str, float]:
    """Normalise, split and write the tables; returns rows per split."""
    raw = {name: read_table(f"data/raw/{name}.parquet", contract) for name, contract in TABLES.items()}
    with written_beside("data/prepared") as folder:
        figures = write_prepared(raw, folder, stage.settings.prepare, stage.settings.seed)
        figures |= without_broken(folder, stage.settings, figures)
        figures |= within_context(folder, stage.settings)
    write_json("metrics/prepare.json", figures)
    for name in SPLIT_TABLES:
        rows = ", ".join(f"{figures[name][split]['rows']} {split}" for split in SPLITS)
        print(f"{name}: {rows}")
    dropped = ", ".join(f"{count} {why}" for why, count in figures["corpus"]["why"].items() if count)
    print(
        f"corpus: {plural(figures['corpus']['rows'], 'text')}, {figures['corpus']['dropped']} dropped"
        + (f" ({dropped})" if dropped else "")
    )
    if held_back := figures["held_back"]:
        print(
            f"{plural(held_back, 'prompt')} of the source's split train went to other splits: the parameters "
            "ask for those, and the source has no rows there"
        )
    if near := figures["near_duplicates"]["prompts"]:
        print(
            f"{plural(near, 'prompt', 'have')} a near-duplicate before and went to its split; "
            f"{figures['near_duplicates']['largest']} of them in the largest group; where prompts are alike "
            "only because they share a long instruction, raise prepare.near_duplicates or set it to null"
        )
    if apart := figures["near_duplicates"]["apart"]:
        print(
            f"warning: {plural(apart, 'prompt', 'stay')} in the split that the rows say, and a near-duplicate"
            f" is held out, such as {ascii(figures['near_duplicates']['shown'][0])[:60]}"
        )
    for name, contract in TABLES.items():
        table = read_table(f"data/prepared/{name}.parquet", contract)
        if table:
            stage.log_dataset(f"data/prepared/{name}.parquet", table, context="prepare")
    return {f"{name}/{split}": figures[name][split]["rows"] for name in SPLIT_TABLES for split in SPLITS}


def without_broken(folder: Path, settings: Settings, before: Figures) -> Figures:
    """Set rows aside that break a rule whose severity is quarantine; returns the counts of what is left.

    Args:
        folder: of the tables.
        settings: the rules and the longest texts.
        before: the counts of all rows.

    Raises:
        SettingsError: the parameters name a rule that there is not.
    """
    rules = settings.validate_
    refuse_unknown(rules.rules, rules.thresholds)
    taken = set_aside(folder, Asked(settings.prepare, rules.rules, rules.thresholds))
    figures: Figures = {"set_aside": taken} if taken else {}
    for name, count in taken.items():
        print(f"{name}: {plural(count, 'row')} set aside, in data/prepared/{SET_ASIDE}")
        counts = counted(folder, name)
        figures[name] = counts.by_split() if name in SPLIT_TABLES else before[name] | counts.together()
    return figures


def within_context(folder: Path, settings: Settings) -> Figures:
    """Drop or cut what the context of the base cannot hold; returns the counts of what is left."""
    how = settings.prepare.too_long
    changed = {} if how == "refuse" else fit(folder, settings)
    figures: Figures = {"too_long": {"how": how, **changed}} if changed else {}
    for name, count in changed.items():
        done = "dropped" if how == "drop" else "cut"
        print(f"{name}: {plural(count, 'row')} {done}, too long for the context")
        figures[name] = counted(folder, name).by_split()
    return figures


def counted(folder: Path, name: str) -> Counts:
    """The counts of a table that was written anew."""
    counts = Counts(TABLES[name])
    for batch in read_table(folder / f"{name}.parquet", TABLES[name]).batches():
        prompts = batch.column("text" if name == "corpus" else "prompt")
        counts.add(batch, text_hashes(prompts).view(np.int64))
    return counts


def prepare(raw: Mapping[str, Iterable[dict[str, Any]]], settings: Prepare, seed: int) -> dict[str, Table]:
    """The tables as `write_prepared` makes them of rows in memory; their files are gone already.

    Args:
        raw: name of `contracts.TABLES` -> rows.
        settings: the shares.
        seed: of the assignment.

    Raises:
        DataError: one prompt text stands for two conversations.
    """
    with tempfile.TemporaryDirectory() as name:
        before, after = Path(name, "raw"), Path(name, "prepared")
        for table, contract in TABLES.items():
            write_table(before / f"{table}.parquet", contract, raw.get(table, ()))
        tables = {table: read_table(before / f"{table}.parquet", TABLES[table]) for table in TABLES}
        write_prepared(tables, after, settings, seed)
        return {table: read_table(after / f"{table}.parquet", TABLES[table]) for table in TABLES}


def write_prepared(raw: Mapping[str, Table], folder: Path, settings: Prepare, seed: int) -> Figures:
    """Write the tables in normal form: texts stripped, completions after one space, splits, ids filled in.

    Prompts of other tables that the table of prompts lacks are added to it. The splits are those of
    `rlhf.data.splits`. Messages and the answers to them keep their white space: it is part of code, and
    templates differ in what they strip.

    Args:
        raw: name -> rows, for each name of `contracts.TABLES`.
        folder: where they are written.
        settings: the shares.
        seed: of the assignment.

    Returns:
        The content of metrics/prepare.json.

    Raises:
        DataError: one prompt text stands for two conversations.
    """
    assigned = assign_splits({name: raw[name] for name in SPLIT_TABLES}, settings, seed)
    figures: Figures = {
        "near_duplicates": {
            "prompts": assigned.near,
            "largest": assigned.largest,
            "apart": assigned.apart,
            "shown": list(assigned.shown),
        },
        "held_back": assigned.held_back,
    }
    grouped = Groups()
    for name in SPLIT_TABLES:
        counts = Counts(TABLES[name])
        with TableWriter(folder / f"{name}.parquet", TABLES[name]) as writer:
            for batch, prompts in _finished(name, raw, assigned):
                writer.write_batch(batch)
                counts.add(batch, prompts)
                if name == "prompts":
                    grouped.add(batch.column("prompt"), assigned.group[prompts])
        figures[name] = counts.by_split()
    grouped.write(folder)
    prepared = {name: read_table(folder / f"{name}.parquet", TABLES[name]) for name in SPLIT_TABLES}
    figures["corpus"] = write_corpus(raw["corpus"], folder, prepared)
    return figures


def _finished(
    name: str, raw: Mapping[str, Table], assigned: Assigned
) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """The rows of a table as they are written, and the numbers of their prompts; the table of prompts ends
    with those that only other tables have."""
    ids = Ids(TABLES[name], raw[name])

    def own(batch: pa.RecordBatch, rows: slice) -> tuple[pa.RecordBatch, np.ndarray]:
        return _complete(normal(batch), assigned.split[rows], ids), assigned.prompt[rows]

    def added(batch: pa.RecordBatch, rows: slice) -> tuple[pa.RecordBatch, np.ndarray]:
        new = np.flatnonzero(assigned.first[rows])
        prompts = normal(batch.take(pa.array(new)))
        return _complete(prompts, assigned.of_prompt[rows][new], ids), assigned.prompt[rows][new]

    # Each in a thread while the one before is counted and written: most of it is Arrow's work.
    yield from ahead(partial(own, *batch) for batch in assigned.batches(name, raw[name]))
    for other in SPLIT_TABLES[1:] if name == "prompts" else ():
        batches = assigned.batches(other, raw[other], ["prompt", "messages", "source"])
        yield from ahead(partial(added, *batch) for batch in batches)


def _complete(batch: pa.RecordBatch, splits: np.ndarray | None, ids: Ids) -> pa.RecordBatch:
    """A batch in normal form with its splits, where it has any, and ids; what it carried stays."""
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    if splits is not None:
        carried = columns.get("split", pa.nulls(batch.num_rows, pa.string()))
        # Rows for training may go to a split that the source lacks; a name of no split is for `validate`.
        kept = pc.invert(pc.is_in(carried, pa.array(["", "train", None], pa.string())))
        columns["split"] = pc.if_else(kept, carried, pa.array(SPLITS).take(pa.array(splits)))
    columns["id"] = ids.of_rows(batch)
    return pa.RecordBatch.from_pydict(columns)


def write_corpus(raw: Table, folder: Path, prepared: Mapping[str, Table]) -> Figures:
    """Write the texts of the corpus, each once, but for those that give away what is held out: that open with
    a test prompt, or hold a test prompt or its reference."""
    counts, ids, seen = Counts(CORPUS), Ids(CORPUS, raw), set[bytes]()
    dropped: Counter[str] = Counter({"empty": 0, "repeated": 0, "held out": 0})
    with TableWriter(folder / "corpus.parquet", CORPUS) as writer:
        test = HeldOut(prepared) if len(raw) else None
        for batch in map(normal, raw.batches()):
            assert test is not None
            texts = values_of(batch.column("text"))
            kept = []
            for number, (text, away) in enumerate(zip(texts, test.given_away(texts), strict=True)):
                digest = sha256((text or "").encode()).digest()
                if not text or away or digest in seen:
                    dropped["empty" if not text else "held out" if away else "repeated"] += 1
                else:
                    seen.add(digest)
                    kept.append(number)
            whole = _complete(batch.take(pa.array(kept, pa.int64())), None, ids)
            writer.write_batch(whole)
            counts.add(whole, np.array(kept))
    return counts.together() | {"dropped": sum(dropped.values()), "why": dict(dropped)}


if __name__ == "__main__":
    run("prepare", main)
