"""Ratings of CNN/DailyMail summaries (Chaganty et al. 2018; Böhm et al. 2019): systems and the reference.

`sorted_scores.json` has the texts, the mean ratings and what people made of each text; `lqual.jsonl` has the
ratings of each annotator and no texts, so that nothing can be trained on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, text_of
from rlhf.data.layouts.values import by_key, comparison, weighted

PEOPLE = "cnndm-annotators"
REFERENCE = "reference"


def _fits_texts(columns: Mapping[str, str]) -> bool:
    return {"id", "ref", "sys_name", "sys_summ", "scores"} <= columns.keys()


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    yield from by_key(records, lambda columns: str(columns.get("id")))


def _rows_texts(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    notes.say("the articles are not in the file: `CNN/DailyMail article ID` stands for each")
    first = records[0].columns
    asked = {"prompt": f"CNN/DailyMail article {first['id']}"}
    scored = []
    for record in records:
        scores = record.columns.get("scores")
        if not isinstance(scores, Mapping):
            raise DataError(f"scores is {ascii(scores)[:40]}; it must be an object of ratings by aspect")
        score = weighted(scores, options, "overall", notes)
        if score is None:
            notes.pass_over("texts without a rating", record.where)
            continue
        text = text_of(record.columns.get("sys_summ"), "sys_summ")
        scored.append((str(record.columns["sys_name"]), text, score))
        edit = scores.get("edit")
        if isinstance(edit, str) and edit.strip() and edit != text:
            made = {"output": text, "text": edit, "policy": scored[-1][0], "labeler_id": PEOPLE}
            yield Item("edits", asked | made)
    best = next((score for name, _, score in scored if name == REFERENCE), None)
    for name, text, score in scored:
        if name != REFERENCE and best is not None:
            preferred = "tie" if score == best else "output" if score > best else "reference"
            judged = {"output": text, "policy": name, "preferred": preferred}
            judged |= {
                "reference": text_of(first.get("ref"), "ref"),
                "judge_id": PEOPLE,
                "judge_kind": "human",
            }
            yield Item("judgments", asked | judged)
    if len(scored) < 2:
        notes.pass_over("articles with fewer than two rated texts", records[0].where)
        return
    yield comparison(
        asked,
        [text for _, text, _ in scored],
        scores=[score for _, _, score in scored],
        policies=[name for name, _, _ in scored],
        labeler_id=PEOPLE,
        labeler_group="human",
    )


def _fits_ratings(columns: Mapping[str, str]) -> bool:
    return {"id", "system", "annotators", "prompts"} <= columns.keys() and columns["prompts"] == "object"


def _rows_ratings(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        notes.pass_over(
            "ratings of texts that are not in the file (sorted_scores.json has them; "
            "`python -m benchmarks.ratings` reads the ratings)",
            record.where,
            record.columns.get("id"),
        )
    return iter(())


LAYOUTS = (
    Layout(
        name="rated-summaries",
        about="summaries of an article by systems and people, with mean ratings and edits (CNN/DailyMail)",
        columns="`id`, `ref`, `sys_name`, `sys_summ`, `scores{overall, grammar, redundancy, edit}`",
        fits=_fits_texts,
        rows=_rows_texts,
        groups=_groups,
        own=frozenset(("id", "ref", "sys_name", "sys_summ", "scores")),
    ),
    Layout(
        name="ratings-without-texts",
        about="ratings by each annotator of texts that are not in the file; counted, nothing is read of them",
        columns="`id`, `system`, `annotators`, `prompts{overall{human}}`",
        fits=_fits_ratings,
        rows=_rows_ratings,
        own=frozenset(("id", "system", "annotators", "prompts")),
    ),
)
