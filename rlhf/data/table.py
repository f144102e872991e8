"""Tables that stages write and read: Parquet with the schema of a contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlhf.data.contracts import Contract, exact
from rlhf.data.errors import DataError
from rlhf.data.files import written_beside


def write_table(path: Path | str, contract: Contract, rows: list[dict[str, Any]]) -> None:
    """Write rows as Parquet: beside, then renamed, so that a killed writer leaves nothing half-written."""
    columns: dict[str, list[Any]] = {name: [] for name in contract.schema.names}
    for number, row in enumerate(rows, start=1):
        for field in contract.schema:
            value = row.get(field.name)
            try:
                columns[field.name].append(exact(value, field.type))
            except ValueError:
                raise DataError(
                    f"{path}: {contract.name} {number} has a value of the wrong type: "
                    f"{field.name} {ascii(value)[:60]} is no {field.type}"
                ) from None
    table = pa.Table.from_pydict(columns, schema=contract.schema)
    with written_beside(path) as beside:
        pq.write_table(table, beside, compression="zstd")


def read_table(path: Path | str, contract: Contract) -> list[dict[str, Any]]:
    """Rows of a table that `write_table` wrote.

    Raises:
        DataError: no such file, not Parquet, or another schema.
    """
    if not Path(path).exists():
        raise DataError(f"{path}: no such file; run the stage that writes it (dvc repro)")
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not a Parquet file: {error}") from None
    if "messages" in contract.schema.names and "messages" not in table.schema.names:
        # A run from before there were conversations wrote it: all its prompts are plain text.
        place = contract.schema.get_field_index("messages")
        field = contract.schema.field(place)
        table = table.add_column(place, field, pa.nulls(len(table), field.type))
    if table.schema.names != contract.schema.names:
        odd = set(table.schema.names) ^ set(contract.schema.names)
        raise DataError(f"{path}: not a table of {contract.name}s: columns differ in {sorted(odd)}")
    return table.to_pylist()
