"""Reading the labels of a file: the layouts of `rlhf.data.layouts`, as the pipeline's ingest reads them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from labeling.imports.flags import by_flags
from labeling.imports.label import KINDS_OF, ImportedLabel, label_of
from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Notes, Options
from rlhf.data.plural import plural
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
        ranks = plural(nothing, "label", "rank")
        said.say(f"{ranks} fewer than two outputs: kept, and nothing is learnt of that")
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
