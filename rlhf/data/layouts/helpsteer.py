"""HelpSteer2 (an answer a row, rated by aspect; Wang et al. 2024) and HelpSteer3 (a preference from -3 to 3;
Wang et al. 2025)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.instructions import PROMPTS, asking, instructed
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, is_a, text_of
from rlhf.data.layouts.turns import asked
from rlhf.data.layouts.values import LABELERS, by_key, common, comparison, filled, number_of, weighted
from rlhf.data.layouts.verdicts import ranked

ASPECTS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
RATINGS = ("overall", "overall_score", "rating", "score", "reward", "quality")
RANK = "rank"  # of an answer among those of its prompt; 1 is the best
_ANSWERS = ("response", "answer", "output", "completion")
_TURN = re.compile(r"\n*<extra_id_1>(User|Assistant)\n")


def _fits_rated(columns: Mapping[str, str]) -> bool:
    answers = [name for name in _ANSWERS if is_a(columns, name, "text")]
    rated = [name for name in (*ASPECTS, *RATINGS, RANK) if name in columns]
    thumbs = columns.keys() & {"label", "kto_tag", "liked", "thumbs_up"} or "thumb" in columns.values()
    return len(answers) == 1 and bool(rated) and len(asking(columns)) == 1 and not thumbs


def _key(columns: Mapping[str, Any]) -> tuple[str, str, str]:
    """Ratings are compared where they are the same labeler's of answers to the same prompt, in one split: an
    answer that is held out is compared with none that is trained on."""
    prompt = [columns[name] for name in PROMPTS if name != "user" and filled(columns.get(name))]
    who = next((columns[name] for name in LABELERS if filled(columns.get(name))), None)
    return str(prompt), str(who), str(columns.get("split"))


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    yield from by_key(records, _key)


def _rows_rated(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    first = records[0].columns
    name = next(name for name in _ANSWERS if name in first)
    prompt = next((column for column in PROMPTS if filled(first.get(column))), "prompt")
    default = next((aspect for aspect in (*RATINGS, ASPECTS[0]) if aspect in first), "")
    by_rank = not default and not options.aspects and RANK in first
    if RANK in first and not by_rank:
        notes.say(f"column {RANK!r} is not read beside ratings")
    if not default and not by_rank and not options.aspects:
        there = ", ".join(aspect for aspect in ASPECTS if aspect in first)
        raise DataError(f"no overall rating, only {there}; say which count in ingest.aspects")
    answers, scores = [], []
    for record in records:
        answers.append(text_of(record.columns.get(name), name))
        if by_rank:
            rank = record.columns.get(RANK)
            scores.append(number_of(rank, RANK) if filled(rank) else None)
            continue
        ratings = {k: v for k, v in record.columns.items() if k in (*ASPECTS, *RATINGS, *options.aspects)}
        scores.append(weighted(ratings, options, default, notes))
    if len(scores) - scores.count(None) < 2:
        notes.pass_over(
            "prompts with a single rated answer, which nothing is compared with (ingest.layout: instructions "
            "reads them as demonstrations)",
            records[0].where,
        )
        return
    judged: dict[str, Any] = {"scores": scores}
    if by_rank:
        better = options.direction or "lower"
        notes.say(f"{RANK}: the {better} number is the better (ingest.direction says otherwise)")
        judged = {"ranking": ranked(scores, better)}
    elif options.direction == "lower":
        notes.say("ratings: the lowest is best (ingest.direction)")
        judged = {"ranking": scores}
    turns = _turns(first[prompt]) if isinstance(first.get(prompt), str) else None
    question = (
        asked(turns, records[0].where, notes, first.get("system"))
        if isinstance(turns, list)
        else instructed(records[0], notes)
    )
    models = [record.columns.get("model") or record.columns.get("policy") or "" for record in records]
    yield comparison(
        question,
        answers,
        **judged,
        policies=models if any(models) else None,
        **common(first),
    )


def _turns(prompt: str) -> Any:
    """HelpSteer2 marks turns after the first as <extra_id_1>Assistant and <extra_id_1>User."""
    parts = _TURN.split(prompt)
    if len(parts) == 1:
        return prompt
    turns = [{"role": "user", "content": parts[0]}] if parts[0] else []
    return [
        *turns,
        *({"role": r.lower(), "content": c} for r, c in zip(parts[1::2], parts[2::2], strict=True)),
    ]


# Names of the answers and of the preference: HelpSteer3's, and those of HelpSteer2's preferences.
_PREFERRED = (
    ("response1", "response2", "overall_preference"),
    ("response_1", "response_2", "preference_strength"),
)


def _fits_preferred(columns: Mapping[str, str]) -> bool:
    return any(set(names) <= columns.keys() for names in _PREFERRED)


def _rows_preferred(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        first, second, column = next(names for names in _PREFERRED if set(names) <= columns.keys())
        value = columns[column]
        if not filled(value):
            notes.pass_over(f"rows without {column}", record.where)
            continue
        preferred = number_of(value, column)
        if not -3 <= preferred <= 3:
            raise DataError(f"{column} is {preferred:g}; it must be -3 ({first}) to 3 ({second})")
        notes.say(f"{column} below 0: {first} is better; its size is kept as margin")
        if columns.get("individual_preference"):
            notes.say(
                "individual_preference: the rows are of the overall preference; the annotators' own are kept "
                "in extra"
            )
        yield comparison(
            asked(_turns_or(columns), record.where, notes, column="context"),
            [text_of(columns.get(name), name) for name in (first, second)],
            ranking=[preferred, -preferred],
            margin=abs(preferred),
            extra=columns.get("individual_preference")
            and {"individual_preference": columns["individual_preference"]},
            **common(columns),
        )


def _turns_or(columns: Mapping[str, Any]) -> Any:
    """The prompt: turns, a text, or HelpSteer2's text with marks."""
    prompt = columns.get("context") or columns.get("prompt")
    return _turns(prompt) if isinstance(prompt, str) else prompt


LAYOUTS = (
    Layout(
        name="rated-answers",
        about="an answer a row with its ratings; the rows of one prompt are compared (HelpSteer2)",
        columns="`prompt`, `response`, and `helpfulness`, `correctness`, `coherence`, `complexity`, "
        "`verbosity`, or one of `score`, `rating`, `overall`, `reward`, `rank`",
        fits=_fits_rated,
        rows=_rows_rated,
        groups=_groups,
        own=frozenset(
            (
                *PROMPTS,
                *_ANSWERS,
                *ASPECTS,
                *RATINGS,
                RANK,
                *LABELERS,
                "system",
                "model",
                "policy",
                "split",
                "source",
            )
        ),
    ),
    Layout(
        name="helpsteer3",
        about="two answers and a preference from -3 (the first is much better) to 3 (HelpSteer3)",
        columns="`context`, `response1`, `response2`, `overall_preference`, `individual_preference`; or "
        "`prompt`, `response_1`, `response_2`, `preference_strength`",
        fits=_fits_preferred,
        rows=_rows_preferred,
        own=frozenset(("context", "prompt", *(name for names in _PREFERRED for name in names)))
        | {"individual_preference", *LABELERS, "split", "source"},
    ),
)
