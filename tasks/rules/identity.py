"""Rules of which row is which: no copies, a source, and an id that is the hash of the content."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from tasks.rules.rule import FILL, TEXTS, Mask, Rule
from tasks.rules.view import OTHER_IDS, OWN_IDS, View


def _other_id(view: View, _: Any) -> Mask:
    return view.other_ids


def _repeats(view: View, _: Any) -> Mask:
    return pd.Series(view.own_ids).duplicated().to_numpy()


def _repeats_which(view: View, number: int) -> str:
    first = int(np.flatnonzero(view.own_ids == view.own_ids[number])[0])
    return f"it says the same as {view.place(first)}"


def _shared_ids(view: View, _: Any) -> Mask:
    if not view.other_ids.any():
        return np.zeros(view.size, bool)  # rows of one id have one content then
    ids = view.hashes("id")
    frame = pd.DataFrame({"id": ids, "content": view.own_ids}).drop_duplicates()
    shared = frame["id"][frame["id"].duplicated()].unique()
    return np.isin(ids, shared)


RULES = (
    Rule(
        "unique",
        TEXTS,
        "no row says the same as another",
        "a row that stands twice counts twice",
        "leave one of them out",
        show=_repeats_which,
        rows=_repeats,
        needs=(OWN_IDS,),
    ),
    Rule(
        "source_filled",
        TEXTS,
        "source is never null",
        "a row that nobody can trace cannot be mended",
        FILL,
        show=("source",),
        batch=lambda batch, _: batch.null("source"),
    ),
    Rule(
        "unique_ids",
        TEXTS,
        "no two rows have the same id",
        "labels and judgments find their row by its id",
        "leave the ids out to have them filled in",
        show=("id",),
        rows=_shared_ids,
        needs=(OWN_IDS, OTHER_IDS),
    ),
    Rule(
        "id_of_content",
        TEXTS,
        "the id is the hash of the content",
        "an id of other content is that of a row which was changed afterwards",
        "leave the ids out to have them filled in",
        show=("id",),
        rows=_other_id,
        needs=(OTHER_IDS,),
    ),
)
