"""Bring rows in from the source that params name: `python -m tasks.ingest`.

Writes data/raw (corpus, demonstrations, prompts, comparisons) and data/gold (the true facts of the built-in
posts; no rows for any other source).
"""

from __future__ import annotations

from pathlib import Path

from rlhf.data import sources
from rlhf.data.contracts import GOLD, TABLES, write_table, written_beside
from tasks.runtime.stage import Stage, run


def main(stage: Stage) -> dict[str, float]:
    """Read the source, write its rows and say how many there are; returns the counts."""
    settings = stage.settings.ingest
    raw = sources.load(settings, stage.settings.seed)
    with written_beside("data/raw") as folder:
        for name, contract in TABLES.items():
            write_table(folder / f"{name}.parquet", contract, raw.tables[name])
    with written_beside("data/gold") as folder:
        write_table(folder / "facts.parquet", GOLD, raw.gold)

    counts = {name: len(rows) for name, rows in raw.tables.items()}
    print(
        f"source {settings.source}, {raw.revision}: " + ", ".join(f"{n} {name}" for name, n in counts.items())
    )
    for note in raw.notes:
        print(note)
    for name, rows in raw.tables.items():
        if rows:
            path = Path("data/raw") / f"{name}.parquet"
            stage.log_dataset(str(path), rows, context="ingest")
    return {f"rows/{name}": count for name, count in counts.items()}


if __name__ == "__main__":
    run("ingest", main)
