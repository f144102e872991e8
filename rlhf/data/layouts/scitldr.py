"""SciTLDR (Cachola et al. 2020): the sentences of an abstract and its one-line summaries by people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record
from rlhf.data.layouts.values import as_extra

CUE = "\n\nTL;DR:"


def _fits(columns: Mapping[str, str]) -> bool:
    return columns.get("source") == columns.get("target") == "texts"


def _rows(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        sentences, targets = _texts(columns, "source"), _texts(columns, "target")
        notes.say(
            "the prompt is the abstract and the cue 'TL;DR:'; the first target is its author's summary, the "
            "others come from reviews; paper_id and title are kept in extra; abstracts with their titles are "
            "the corpus"
        )
        extra = {name: columns[name] for name in ("paper_id", "title") if columns.get(name)}
        # Without the cue, so that a base that is trained on it has not seen what a summary looks like.
        text = "\n\n".join([" ".join(sentences), *filter(None, [columns.get("title")])])
        yield Item("corpus", {"text": text})
        for number, target in enumerate(targets):
            yield Item(
                "demonstrations",
                {
                    "prompt": " ".join(sentences) + CUE,
                    "completion": target,
                    "writer_id": "author" if number == 0 else f"reviewer-{number}",
                    "extra": as_extra(extra) if extra else None,
                },
            )


def _texts(columns: Mapping[str, Any], name: str) -> list[str]:
    texts = columns.get(name)
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise DataError(f"column {name!r} is {ascii(texts)[:40]}; it must be a list of texts")
    return texts


LAYOUT = Layout(
    name="scitldr",
    about="an abstract as sentences and several summaries, each a demonstration (SciTLDR)",
    columns="`source[]`, `target[]`, `paper_id`, `title`",
    fits=_fits,
    rows=_rows,
    own=frozenset(("source", "target", "paper_id", "title")),
)
