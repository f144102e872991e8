"""Reading the labels of a file: its layout is recognised by its fields.

contract      comparisons, demonstrations or judgments (`rlhf.data.contracts`) as JSONL, CSV, Parquet
argilla       `dataset.records.to_json(...)`: fields, and responses by question
label-studio  the JSON export: tasks with data and annotations
qa-feedback   `dev_feedback.json` of FineGrainedRLHF (Wu et al. 2023)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from labeling.imports.argilla import labels_of_record
from labeling.imports.contracts import contract_of, labels_of_rows
from labeling.imports.label import Fields, ImportedLabel
from labeling.imports.label_studio import labels_of_task
from labeling.imports.qa_feedback import labels_of_question
from rlhf.data.errors import DataError
from rlhf.data.formats.text_files import read_text

Reader = Callable[[dict[str, Any]], Iterable[ImportedLabel]]  # the labels of one record


def read_labels(
    path: Path | str, fields: Fields | None = None, notes: list[str] | None = None
) -> list[ImportedLabel]:
    """The labels of a file, whatever its layout.

    Args:
        path: the file.
        fields: which fields of a record are the prompt and the outputs.
        notes: gets lines for a person to see, such as how rankings were read.

    Raises:
        DataError: the file cannot be read, its layout is unknown, or a row cannot be used.
    """
    path, fields = Path(path), fields or Fields()
    if path.suffix not in (".json", ".jsonl"):
        return labels_of_rows(path, contract_of(_columns(path)), notes)
    records = _records(path)
    names = set(records[0]) if records and isinstance(records[0], dict) else set()
    readers: list[tuple[set[str], Reader]] = [
        ({"passages", "preference", "feedback"}, labels_of_question),
        ({"fields", "responses"}, partial(labels_of_record, fields=fields)),
        ({"data", "annotations"}, partial(labels_of_task, fields=fields)),
    ]
    for needed, reader in readers:
        if needed <= names:
            return _labels_of_records(path, records, reader)
    return labels_of_rows(path, contract_of(names), notes)


def _labels_of_records(path: Path, records: list[Any], reader: Reader) -> list[ImportedLabel]:
    labels: list[ImportedLabel] = []
    for number, record in enumerate(records, start=1):
        try:
            if not isinstance(record, dict):
                raise DataError("not an object")
            labels += reader(record)
        except DataError as error:
            raise DataError(f"{path}: record {number}: {error}") from None
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise DataError(f"{path}: record {number}: not of the expected shape: {error!r}") from None
    return labels


def _records(path: Path) -> list[Any]:
    if not path.exists():
        raise DataError(f"{path}: no such file")
    text = read_text(path)
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: not valid JSON ({error.msg} at line {error.lineno}); is it cut off?"
        ) from None
    if not isinstance(records, list) or not records:
        raise DataError(f"{path}: expected a list of records with at least one")
    return records


def _columns(path: Path) -> set[str]:
    """Column names of a CSV or Parquet file."""
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return set(pq.read_schema(path).names)
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: not a Parquet file: {error}") from None
    if path.suffix != ".csv":
        raise DataError(f"{path}: unknown file type {path.suffix!r}; use .jsonl, .json, .csv or .parquet")
    return set(read_text(path).split("\n", 1)[0].strip().split(","))
