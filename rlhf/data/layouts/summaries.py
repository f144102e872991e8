"""Summarize-from-feedback (Stiennon et al. 2020): comparisons of two summaries, and ratings by axis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Item, Layout, Notes, Options, Record, text_of
from rlhf.data.layouts.values import by_key, comparison, filled, object_of, weighted, who_is

_SPLITS = {"valid1": "validation", "valid2": "validation", "valid": "validation"}


def _fits_pairs(columns: Mapping[str, str]) -> bool:
    return {"summaries", "choice"} <= columns.keys() and bool(columns.keys() & {"info", "prompt"})


def _fits_rated(columns: Mapping[str, str]) -> bool:
    return {"info", "summary"} <= columns.keys() and columns["summary"] == "object"


def _prompt(columns: Mapping[str, Any]) -> dict[str, str]:
    """The post as the paper's prompts tell it, with a cue for the summary."""
    if filled(columns.get("prompt")):
        return {"prompt": text_of(columns["prompt"], "prompt")}
    info = object_of(columns.get("info")) or {}
    if not (filled(info.get("post")) or filled(info.get("article"))):
        raise DataError("info has neither post nor article; name the prompt in ingest.columns")
    heads = []
    if filled(info.get("subreddit")):
        heads.append(f"SUBREDDIT: r/{str(info['subreddit']).removeprefix('r/')}")
    if filled(info.get("title")):
        heads.append(f"TITLE: {info['title']}")
    body = f"POST: {info['post']}" if filled(info.get("post")) else str(info["article"])
    return {"prompt": "\n\n".join([*heads, body, "TL;DR:"])}


def _kept(columns: Mapping[str, Any]) -> dict[str, Any]:
    split = columns.get("split")
    told = {"labeler_id": who_is(columns.get("worker", columns.get("labeler_id")))}
    if filled(split):
        told["split"] = _SPLITS.get(str(split), split)
    return told


def _rows_pairs(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    for record in records:
        columns = record.columns
        summaries, choice = columns.get("summaries"), columns.get("choice")
        if not isinstance(summaries, list) or len(summaries) < 2:
            raise DataError("summaries must be a list of two")
        picked = str(choice).removesuffix(".0")
        if picked not in map(str, range(len(summaries))):
            raise DataError(f"choice is {ascii(choice)[:40]}; it must be the number of a summary, from 0")
        sure: Any = (object_of(columns.get("extra")) or {}).get("confidence")
        strength = next((number for number in range(1, 10) if number == sure), None)
        if filled(sure) and strength is None:
            notes.pass_over("confidences outside 1 to 9", record.where, sure)
        kept: dict[str, Any] = {}
        said = [str(s.get("note") or "") for s in summaries]
        if any(said):
            kept["extra"] = {"notes": said}
        yield comparison(
            _prompt(columns),
            [text_of(s.get("text"), "text") for s in summaries],
            ranking=[1 if place == int(picked) else 2 for place in range(len(summaries))],
            strength=strength,
            policies=[str(s.get("policy") or "") for s in summaries],
            note=columns.get("note"),
            **_kept(columns),
            **kept,
        )


def _groups(records: Iterable[Record]) -> Iterator[list[Record]]:
    yield from by_key(records, lambda columns: (str(columns.get("info")), str(columns.get("worker"))))


def _rows_rated(records: Sequence[Record], options: Options, notes: Notes) -> Iterator[Item]:
    texts, scores, policies = [], [], []
    for record in records:
        summary = record.columns["summary"]
        axes = summary.get("axes")
        if not isinstance(axes, Mapping):
            raise DataError("a summary has no axes; they are its ratings by aspect")
        texts.append(text_of(summary.get("text"), "text"))
        scores.append(weighted(axes, options, "overall", notes))
        policies.append(str(summary.get("policy") or ""))
    if len(scores) - scores.count(None) < 2:
        notes.pass_over(
            "summaries that their worker rated alone, which nothing is compared with", records[0].where
        )
        return
    first = records[0].columns
    yield comparison(_prompt(first), texts, scores=scores, policies=policies, **_kept(first))


LAYOUTS = (
    Layout(
        name="summary-pairs",
        about="two summaries of a post and the chosen one (summarize-from-feedback, comparisons)",
        columns="`info{post, title, subreddit, article}`, `summaries[{text, policy}]`, `choice`, `worker`, "
        "`extra{confidence}`, `split`",
        fits=_fits_pairs,
        rows=_rows_pairs,
        own=frozenset(
            ("info", "prompt", "summaries", "choice", "worker", "labeler_id", "extra", "note", "split")
        ),
    ),
    Layout(
        name="summary-ratings",
        about="summaries rated by axis; one worker's of one post are compared (its axis data)",
        columns="`info`, `summary{text, policy, axes}`, `worker`, `split`",
        fits=_fits_rated,
        rows=_rows_rated,
        groups=_groups,
        own=frozenset(("info", "prompt", "summary", "worker", "labeler_id", "split")),
    ),
)
