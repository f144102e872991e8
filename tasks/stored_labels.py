"""The rankings of a version of the label store: what `collect` takes, and a run checks first."""

from __future__ import annotations

from typing import Any

from rlhf.data.errors import DataError
from rlhf.settings import Labels
from tasks.runtime.places import state_dir


def stored_rankings(labels: Labels) -> list[dict[str, Any]]:
    """Rows of the contract COMPARISON, as people gave them in the labeling app.

    Raises:
        DataError: no version is named, the store has no such version, it holds no rankings or ties only, or
            other rankings than `labels.sha256` says.
    """
    from labeling.address import store_address
    from labeling.exports import rows_hash, tables
    from labeling.store import Store

    if labels.version is None:
        raise DataError(
            "collect.labelers is 'store', but collect.labels.version is not set; `python -m labeling export "
            "PROJECT FOLDER --cut` makes a version, and the flow `feedback` does all of it"
        )
    store = Store(store_address(state_dir()), create=False)
    try:
        with store.read() as tx:
            rows = tables(tx, labels.project, labels.version)["comparisons"]
    finally:
        store.close()
    where = f"{store.url}: project {labels.project!r}, version {labels.version}"
    if not rows:
        raise DataError(f"{where}: it holds no rankings; compare, rank or edit outputs in the labeling app")
    if labels.sha256 not in (None, rows_hash(rows)):
        raise DataError(
            f"{where}: the rankings' sha256 is {rows_hash(rows)}, collect.labels.sha256 says "
            f"{labels.sha256}: this is another store; name the right one in LABELING_DB"
        )
    if all(len(set(row["ranking"])) == 1 for row in rows):
        raise DataError(
            f"{where}: all {len(rows)} rankings are ties, which say nothing about what is better; label more"
        )
    return rows
