"""Labelers without a name: each row that judges the same answers again is taken as another person's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from rlhf.data.columns import values_of
from rlhf.data.plural import plural

UNKNOWN = "unknown"


class Unnamed:
    """Names for labelers whom a file does not name: `unknown`, and `unknown-2` for the second row that judges
    the same answers to the same prompt.

    Two people who agree and a row that was copied look alike; both are kept, as two people, because a vote
    that is lost cannot be counted again. `repeated` says how many rows that were.
    """

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}  # hash of the question -> rows; texts would fill the memory
        self.rows = 0
        self.repeated = 0

    def name(self, row: Mapping[str, Any]) -> str:
        """The labeler of a comparison or vote that names none."""
        answers = row.get("completions") or [row.get("completion")]
        asked = repr(row["messages"]) if row.get("messages") else row.get("prompt")
        question = hash((asked, frozenset(answers)))
        number = self._seen[question] = self._seen.get(question, 0) + 1
        self.rows += 1
        self.repeated += number > 1
        return UNKNOWN if number == 1 else f"{UNKNOWN}-{number}"

    def named(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Comparisons of plain prompts with a name for each labeler who has none."""
        who = batch.column("labeler_id") if "labeler_id" in batch.schema.names else None
        if who is not None and not who.null_count:
            return batch
        names = [None] * batch.num_rows if who is None else values_of(who)
        asked, answers = values_of(batch.column("prompt")), values_of(batch.column("completions"))
        names = [
            name or self.name({"prompt": prompt, "completions": texts})
            for name, prompt, texts in zip(names, asked, answers, strict=True)
        ]
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        return pa.RecordBatch.from_pydict(columns | {"labeler_id": pa.array(names, pa.string())})

    def lines(self, where: str) -> list[str]:
        """What a person should see of it.

        Args:
            where: the source.
        """
        told = []
        if self.rows:
            told.append(f"{where}: {plural(self.rows, 'row', 'name')} no labeler: labeler_id is {UNKNOWN}")
        if self.repeated:
            told.append(
                f"{where}: {self.repeated} of them judge answers that an earlier row judges too; they are "
                f"taken as other people's ({UNKNOWN}-2, ...): if they are copies, leave them out of the file"
            )
        return told
