"""Reading the labels of a file: the layouts of `rlhf.data.layouts`, as the pipeline's ingest reads them.

The QA-feedback data alone have a reader of their own, because a ranking of four outputs cannot say all that
their six preferences say.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from labeling.imports.flags import by_flags
from labeling.imports.label import KINDS_OF, ImportedLabel, label_of
from labeling.imports.qa_feedback import labels_of_question
from rlhf.data.errors import DataError
from rlhf.data.formats.text_files import read_text
from rlhf.data.layouts.layout import Notes, Options
from rlhf.data.reading import Source, read
from rlhf.data.unnamed import UNKNOWN


def read_labels(
    path: Path | str,
    options: Options | None = None,
    notes: list[str] | None = None,
    *,
    layout: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[ImportedLabel]:
    """The labels of a file, whatever its type and layout.

    Args:
        path: the file.
        options: what its columns do not say.
        notes: gets lines for a person to see: how rankings were read, what was passed over and how often.
        layout: the name of its layout; None recognises it.
        columns: column of a contract -> the file's column.

    Raises:
        DataError: the file cannot be read, its layout is unknown, a row cannot be used, or none is a label.
    """
    path, said = Path(path), Notes()
    if questions := _qa_feedback(path):
        return questions
    source = Source(str(path), layout=layout, columns=columns or {}, options=options or Options())
    labels = []
    try:
        for item in read(source, said):
            if item.table not in KINDS_OF:
                said.pass_over(f"rows of {item.table}, which are no labels", item.where)
                continue
            try:
                labels.append(label_of(item.table, item.row))
            except DataError as error:
                raise DataError(f"{item.where}: {error}") from None
    except DataError as error:
        raise DataError(by_flags(str(error))) from None
    if not labels:
        raise DataError(f"{path}: nothing in it is a label: {'; '.join(said.lines())}")
    labels = list(_told_apart(labels))
    nothing = sum(_says_nothing(label) for label in labels)
    if nothing:
        said.say(f"{nothing} labels rank fewer than two outputs: they are kept, and train nothing")
    if notes is not None:
        notes += map(by_flags, said.lines())
    return labels


def _told_apart(labels: Iterable[ImportedLabel]) -> Iterable[ImportedLabel]:
    """Labels of which those without a name are of people of their own where they are about the same outputs:
    a second label of one person would replace the first. The driver names those of comparisons and votes."""
    seen: Counter[Any] = Counter()
    for label in labels:
        if label.labeler == UNKNOWN:
            about = (label.kind, label.prompt, json.dumps(label.messages), label.outputs, label.reference)
            seen[about] += 1
            if seen[about] > 1:
                label = replace(label, labeler=f"{UNKNOWN}-{seen[about]}")
        yield label


def _says_nothing(label: ImportedLabel) -> bool:
    ranking = label.answer.get("ranking") or []
    return None in ranking and len(ranking) - ranking.count(None) < 2


def _qa_feedback(path: Path) -> list[ImportedLabel]:
    """The labels of `dev_feedback.json`; none where the file is something else, which the driver reads."""
    if path.suffix != ".json" or not path.is_file():
        return []
    try:
        records = json.loads(read_text(path))
    except (ValueError, RecursionError):
        return []
    first = records[0] if isinstance(records, list) and records else None
    if not isinstance(first, dict) or not {"passages", "preference", "feedback"} <= first.keys():
        return []
    labels: list[ImportedLabel] = []
    for number, record in enumerate(records, start=1):
        try:
            labels += labels_of_question(record)
        except DataError as error:
            raise DataError(f"{path}: record {number}: {error}") from None
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise DataError(f"{path}: record {number}: not of the expected shape: {error!r}") from None
    return labels
