"""Stanford Human Preferences (Ethayarajh et al. 2022): two replies to a post, and which has more votes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, text_of
from rlhf.data.layouts.values import common, comparison, filled, number_of

_FIRST, _SECOND = ("1", "1.0", "A", "true"), ("0", "0.0", "B", "false")
_SPLITS = ("train", "validation", "test")


def _fits(columns: Mapping[str, str]) -> bool:
    return {"history", "human_ref_A", "human_ref_B", "labels"} <= columns.keys()


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        label = str(columns.get("labels"))
        label = label.lower() if label.lower() in ("true", "false") else label
        if label not in (*_FIRST, *_SECOND):
            raise DataError(f"labels is {ascii(columns.get('labels'))[:40]}; it must be 1 (A) or 0 (B)")
        notes.say("labels 1: human_ref_A is preferred, 0: human_ref_B")
        scores = [columns.get(name) for name in ("score_A", "score_B")]
        split = str(columns.get("domain")).rsplit("_", 1)[-1]
        kept = common(columns)
        if split in _SPLITS and "split" not in kept:
            notes.say("the end of column 'domain' is the split of its row")
            kept["split"] = split
        yield comparison(
            {"prompt": text_of(columns.get("prompt", columns.get("history")), "history")},
            [text_of(columns.get(name), name) for name in ("human_ref_A", "human_ref_B")],
            ranking=[1, 2] if label in _FIRST else [2, 1],
            scores=[number_of(score, "score_A or score_B") for score in scores]
            if all(map(filled, scores))
            else None,
            **kept,
        )


LAYOUT = Layout(
    name="shp",
    about="two replies to a post and which is preferred (SHP)",
    columns="`history`, `human_ref_A`, `human_ref_B`, `labels` (1: A), `score_A`, `score_B`, `domain`",
    fits=_fits,
    rows=_rows,
    own=frozenset(
        ("history", "prompt", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B", "domain")
    )
    | {"split", "source", "labeler_id"},
)
