"""Bring rows to the contracts and split them by prompt: `python -m tasks.prepare`.

Reads data/raw, writes data/prepared (the same four tables) and metrics/prepare.json. No row is lost but
corpus texts that are empty, open with a test prompt or repeat an earlier one; whether the rest may be trained
on is for `validate` to say.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import statistics
from typing import Any

from rlhf.data.contracts import SPLITS, TABLES, Contract, row_id
from rlhf.data.conversations import transcript
from rlhf.data.errors import DataError
from rlhf.data.files import write_json, written_beside
from rlhf.data.splits import assign_splits
from rlhf.data.table import read_table, write_table
from rlhf.settings import Prepare
from tasks.runtime.stage import Stage, run

Rows = list[dict[str, Any]]
SPLIT_TABLES = ("prompts", "demonstrations", "comparisons", "votes")


def main(stage: Stage) -> dict[str, float]:
    """Normalise, split and write the tables; returns rows per split."""
    raw = {name: list(read_table(f"data/raw/{name}.parquet", contract)) for name, contract in TABLES.items()}
    tables = prepare(raw, stage.settings.prepare, stage.settings.seed)
    with written_beside("data/prepared") as folder:
        for name, contract in TABLES.items():
            write_table(folder / f"{name}.parquet", contract, tables[name])

    figures = measure(tables)
    figures["corpus"]["dropped"] = len(raw["corpus"]) - len(tables["corpus"])
    write_json("metrics/prepare.json", figures)
    for name in SPLIT_TABLES:
        rows = ", ".join(f"{figures[name][split]['rows']} {split}" for split in SPLITS)
        print(f"{name}: {rows}")
    print(f"corpus: {figures['corpus']['rows']} texts, {figures['corpus']['dropped']} dropped")
    for name, table in tables.items():
        if table:
            stage.log_dataset(f"data/prepared/{name}.parquet", table, context="prepare")
    return {f"{name}/{split}": figures[name][split]["rows"] for name in SPLIT_TABLES for split in SPLITS}


def prepare(raw: dict[str, Rows], settings: Prepare, seed: int) -> dict[str, Rows]:
    """The four tables in normal form: texts stripped, completions after one space, splits, ids filled in.

    Prompts of demonstrations and comparisons that the table of prompts lacks are added to it. The splits are
    those of `rlhf.data.splits`. Messages and the answers to them keep their white space: it is part of code,
    and templates differ in what they strip.

    Args:
        raw: name -> rows, for each name of `contracts.TABLES`.
        settings: the shares.
        seed: of the assignment.

    Raises:
        DataError: one prompt text stands for two conversations.
    """
    tables = {name: [_normal(TABLES[name], row) for row in rows] for name, rows in raw.items()}
    _one_conversation_a_prompt(tables)
    known = {row["prompt"] for row in tables["prompts"]}
    for name in ("demonstrations", "comparisons", "votes"):
        for row in tables[name]:
            if row["prompt"] and row["prompt"] not in known:
                known.add(row["prompt"])
                tables["prompts"].append(
                    {
                        "prompt": row["prompt"],
                        "messages": row["messages"],
                        "topic": None,
                        "split": None,
                        "source": row["source"],
                        "id": None,
                    }
                )
    assign_splits((row for name in SPLIT_TABLES for row in tables[name]), settings, seed)
    test = [row for row in tables["prompts"] if row["split"] == "test" and row["prompt"]]
    held_out = {text for row in test for text in _spellings(row)}
    tables["corpus"] = _corpus(tables["corpus"], held_out)
    for name, contract in TABLES.items():
        # An id that a row brought and that was right moves with the normal form; rows that share it still do.
        moved = {row["id"]: row_id(contract, row) for row in tables[name] if row.pop("id_was_right", False)}
        for row in tables[name]:
            row["id"] = moved.get(row["id"], row["id"]) or row_id(contract, row)
    return tables


def _normal(contract: Contract, row: dict[str, Any]) -> dict[str, Any]:
    """A row with its texts in normal form, and whether the id that came with it was right before that."""
    row = {**row, "id_was_right": row["id"] is not None and row["id"] == row_id(contract, row)}
    for column in ("text", "prompt"):
        if row.get(column) is not None:
            row[column] = _text(row[column])
    answer = _after_a_space
    if row.get("messages") is not None:
        answer = _lines
        row["messages"] = [{**turn, "content": _lines(turn["content"])} for turn in row["messages"]]
    if row.get("completion") is not None:
        row["completion"] = answer(row["completion"])
    if row.get("completions") is not None:
        row["completions"] = [None if text is None else answer(text) for text in row["completions"]]
    return row


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n")


def _text(text: str) -> str:
    return _lines(text).strip()


def _after_a_space(text: str) -> str:
    return " " + _text(text)


def _one_conversation_a_prompt(tables: dict[str, Rows]) -> None:
    """Refuse a prompt text that stands for two conversations: people and judges see only the text, and by it
    splits, facts and judgments belong together."""
    seen: dict[str, tuple[str, Any]] = {}
    for name in SPLIT_TABLES:
        for number, row in enumerate(tables[name], start=1):
            if row["prompt"]:
                place = f"row {number} of {row['source']}"
                first, messages = seen.setdefault(row["prompt"], (place, row["messages"]))
                if messages != row["messages"]:
                    none = messages is None or row["messages"] is None
                    raise DataError(
                        f"{first} and {place} have the same prompt, {ascii(row['prompt'])[:60]}, but "
                        f"{'only one has messages' if none else 'other messages'}; give both the same "
                        "messages, or each a prompt text of its own"
                    )


def _spellings(row: dict[str, Any]) -> set[str]:
    """The texts with which a corpus text would give a test prompt away: the prompt, its transcript, and that
    without the words of the system, which other tellings of it need not have."""
    turns = row["messages"] or []
    told = [turns, [turn for turn in turns if turn["role"] != "system"]]
    return {row["prompt"], *(_text(transcript(messages)) for messages in told if messages)}


def _corpus(rows: Rows, held_out: set[str]) -> Rows:
    """The texts that do not open with a test prompt, each once.

    Args:
        rows: the corpus.
        held_out: the test prompts in all their spellings.
    """
    lengths = sorted({len(prompt) for prompt in held_out})
    kept: dict[str, dict[str, Any]] = {}
    for row in rows:
        text = row["text"] or ""
        if text and not any(text[:length] in held_out for length in lengths if length <= len(text)):
            kept.setdefault(text, row)
    return list(kept.values())


def measure(tables: dict[str, Rows]) -> dict[str, Any]:
    """Rows and prompts per split, and the lengths of prompts and completions in words."""
    figures: dict[str, Any] = {"corpus": {"rows": len(tables["corpus"])} | _words(tables["corpus"], "text")}
    for name in SPLIT_TABLES:
        figures[name] = {}
        for split in SPLITS:
            rows = [row for row in tables[name] if row["split"] == split]
            figures[name][split] = {"rows": len(rows), "prompts": len({row["prompt"] for row in rows})}
            for column in ("prompt", "completion"):
                if column in TABLES[name].content:
                    figures[name][split] |= _words(rows, column)
    return figures


def _words(rows: Rows, column: str) -> dict[str, float]:
    """Mean and longest length of a column in words; nothing for no rows."""
    lengths = [len(row[column].split()) for row in rows if row[column]]
    if not lengths:
        return {}
    return {f"{column}_words_mean": round(statistics.fmean(lengths), 2), f"{column}_words_max": max(lengths)}


if __name__ == "__main__":
    run("prepare", main)
