"""Rules of structure: columns, ids, splits, and that a row has what its contract asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.contracts import SPLITS
from rlhf.data.conversations import check_messages
from rlhf.data.errors import DataError
from tasks.rules.rule import ANSWERS, TEXTS, Asked, Figure, Mask, Rule
from tasks.rules.view import Batch, Flat, View, numpy, text_hashes

_ROW = "fill it or leave the row out"
# Control characters other than tab and line feed, and the mark that decoders leave for a broken byte, in
# RE2's spelling, which Arrow reads.
_BAD_CHARACTERS = r"[\x00-\x08\x0b-\x1f\x7f-\x{9f}\x{fffd}]"


def blank(texts: Any) -> Any:
    """Which texts of an Arrow array are null, empty or white space alone."""
    empty = pc.or_(pc.equal(pc.binary_length(texts), 0), pc.utf8_is_space(texts))
    return pc.fill_null(empty, True)


def unclean(texts: Any) -> Any:
    """Which texts hold characters that no person types."""
    return pc.fill_null(pc.match_substring_regex(texts, _BAD_CHARACTERS), False)


def _longer(texts: Any, most: float) -> Any:
    return pc.fill_null(pc.greater(pc.utf8_length(texts), most), False)


def _prompt(batch: Batch) -> Flat:
    return Flat(batch["prompt"], np.arange(batch.size))


def _rows(view: View, _: Any) -> Figure:
    return Figure(view.size, f"found {view.size}")


def _splits(view: View, _: Any) -> Figure | None:
    if not view.size:
        return None
    there = set(pc.unique(view.column("split")).to_pylist())
    lacking = [split for split in ("train", "validation", "test") if split not in there]
    return Figure(len(lacking), f"missing: {', '.join(lacking)}" if lacking else "all have some")


def _answers_have_text(batch: Batch, _: Any) -> Mask:
    texts, rows = batch.answers
    empty = numpy(blank(texts))
    spaced = numpy(pc.fill_null(pc.match_substring_regex(texts, r"^\s"), False))
    return batch.of_rows(batch.answers, empty | (batch.plain[rows] & ~spaced))


def _other_id(view: View, _: Any) -> Mask:
    return view.hashes("id") != view.own_ids


def _repeats(view: View, _: Any) -> Mask:
    return pd.Series(view.own_ids).duplicated().to_numpy()


def _repeats_which(view: View, number: int) -> str:
    first = int(np.flatnonzero(view.own_ids == view.own_ids[number])[0])
    return f"it says the same as {view.place(first)}"


def _shared_ids(view: View, _: Any) -> Mask:
    ids = view.hashes("id")
    frame = pd.DataFrame({"id": ids, "content": view.own_ids}).drop_duplicates()
    shared = frame["id"][frame["id"].duplicated()].unique()
    return np.isin(ids, shared)


def _split_codes(view: View) -> np.ndarray[Any, Any]:
    splits = view.column("split").combine_chunks()
    return numpy(pc.fill_null(pc.index_in(splits, pa.array(SPLITS)), -1))


def _two_splits(view: View, _: Any) -> Mask:
    frames = [
        pd.DataFrame({"prompt": other.prompts, "split": _split_codes(other)}).drop_duplicates()
        for other in view.beside.values()
        if other.name in TEXTS
    ]
    every = pd.concat(frames).drop_duplicates()
    every = every[every["split"] >= 0]
    return np.isin(view.prompts, every["prompt"][every["prompt"].duplicated()].unique())


def _which_splits(view: View, number: int) -> str:
    own = view.prompts[number]
    codes = {
        code
        for other in view.beside.values()
        if other.name in TEXTS
        for code in _split_codes(other)[other.prompts == own]
        if code >= 0
    }
    return f"its splits are {' and '.join(sorted(SPLITS[code] for code in codes))}"


def _unasked(batch: Batch, _: Any) -> Mask:
    broken = np.zeros(batch.size, bool)
    if batch.plain.all():
        return broken
    for number in np.flatnonzero(~batch.plain):
        try:
            check_messages(batch["messages"][int(number)].as_py())
        except DataError:
            broken[number] = True
    return broken


def _messages_too_long(batch: Batch, most: float) -> Mask:
    lengths = numpy(pc.fill_null(pc.utf8_length(batch.contents.values), 0))
    return np.bincount(batch.contents.rows, lengths, minlength=batch.size) > most


def _ranked(batch: Batch) -> np.ndarray[Any, Any]:
    """How many completions of each row have a rank."""
    ranks, rows = batch.ranks
    return np.bincount(rows[~np.isnan(ranks)], minlength=batch.size)


def _unlike(batch: Batch, column: str) -> Mask:
    """Rows in which a list has not as many items as there are completions, where there are some."""
    return (batch.lengths[column] != batch.lengths["completions"]) & ~batch.null("completions")


def _not_dense(batch: Batch, _: Any) -> Mask:
    """Ranks that are not 1 to their number without gaps, or not as many as completions; null is no rank."""
    ranks, rows = batch.ranks
    known = ~np.isnan(ranks)
    ranks, rows = ranks[known], rows[known]
    order = np.lexsort((ranks, rows))
    ranks, rows = ranks[order], rows[order]
    first = np.ones(len(rows), bool)
    first[1:] = rows[1:] != rows[:-1]
    step = np.ones(len(rows), bool)
    step[1:] = first[1:] | (ranks[1:] == ranks[:-1]) | (ranks[1:] == ranks[:-1] + 1)
    step &= ~first | (ranks == 1)
    broken = _unlike(batch, "ranking") | batch.null("ranking") | (_ranked(batch) == 0)
    broken[rows[~step]] = True
    return broken


def _own_copy(batch: Batch, _: Any) -> Mask:
    """Rows that rank a completion above or below the same text."""
    broken = np.zeros(batch.size, bool)
    texts, ranks, rows = batch.ranked
    keys = text_hashes(texts)
    order = np.lexsort((ranks, keys, rows))
    keys, rows, ranks = keys[order], rows[order], ranks[order]
    alike = (keys[1:] == keys[:-1]) & (rows[1:] == rows[:-1])
    broken[rows[1:][alike & (ranks[1:] != ranks[:-1]) & ~np.isnan(ranks[1:]) & ~np.isnan(ranks[:-1])]] = True
    return broken


def _policies_unfit(batch: Batch, _: Any) -> Mask:
    flat = batch.flat("policies")
    unfit = _unlike(batch, "policies") | batch.of_rows(flat, pc.is_null(flat.values))
    return ~batch.null("policies") & unfit


def _order_unfit(batch: Batch, _: Any) -> Mask:
    """An order that is none; no order, or an empty one, is what imports without it have."""
    flat = batch.flat("shown_order")
    places = numpy(pc.cast(pc.fill_null(flat.values, -1), pa.int64()))
    lengths = batch.lengths["shown_order"]
    order = np.lexsort((places, flat.rows))
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    expected = np.arange(len(places)) - np.repeat(starts, lengths)
    wrong = np.zeros(batch.size, bool)
    wrong[flat.rows[order][places[order] != expected]] = True
    return (lengths > 0) & (wrong | _unlike(batch, "shown_order"))


def _scores_unfit(batch: Batch, _: Any) -> Mask:
    return (batch.lengths["scores"] > 0) & _unlike(batch, "scores")


def _against_scores(batch: Batch, _: Any) -> Mask:
    """Rows in which a worse rank has the better score."""
    broken = np.zeros(batch.size, bool)
    whole = (batch.lengths["scores"] == batch.lengths["ranking"]) & (batch.lengths["scores"] > 0)
    if not whole.any():
        return broken
    flat = batch.flat("scores")
    scores = numpy(pc.cast(pc.fill_null(flat.values, float("nan")), pa.float64()))[whole[flat.rows]]
    keep = whole[batch.ranks.rows]
    ranks, rows = batch.ranks.values[keep], batch.ranks.rows[keep]
    known = ~(np.isnan(ranks) | np.isnan(scores))
    ranks, rows, scores = ranks[known], rows[known], scores[known]
    order = np.lexsort((-scores, ranks, rows))
    ranks, rows, scores = ranks[order], rows[order], scores[order]
    next_level = (rows[1:] == rows[:-1]) & (ranks[1:] > ranks[:-1])
    broken[rows[1:][next_level & (scores[1:] > scores[:-1])]] = True
    return broken


def _bad_but_preferred(batch: Batch, _: Any) -> Mask:
    both = numpy(pc.fill_null(batch["both_bad"], False))
    ranks, rows = batch.ranks
    preferred = np.zeros(batch.size, bool)
    preferred[rows[ranks > 1]] = True
    return both & preferred


def _outside(column: str, least: float, most: float = float("inf")) -> Any:
    def broken(batch: Batch, _: Any) -> Mask:
        values = batch[column]
        out = pc.or_(pc.less(values, least), pc.greater(values, most))
        return numpy(pc.fill_null(out, False))

    return broken


def _required(table: str, asked: Asked) -> bool:
    return table in asked.required


RULES = (
    Rule(
        "has_rows",
        TEXTS,
        "there are {table}",
        "the parameters ask for a stage that reads them",
        "bring at least one of the {table}",
        threshold=1,
        least=True,
        figure=_rows,
        applies=_required,
    ),
    Rule(
        "splits_have_rows",
        ("demonstrations",),
        "train, validation and test have rows",
        "curves need validation rows, and an evaluation needs prompts that trained nothing",
        "give rows a split or raise prepare.test_share and prepare.validation_share",
        threshold=0,
        figure=_splits,
    ),
    Rule(
        "prompt_text",
        TEXTS,
        "the prompt has text",
        "a model cannot answer nothing",
        _ROW,
        show=("prompt",),
        batch=lambda batch, _: numpy(blank(batch["prompt"])),
    ),
    Rule(
        "prompt_length",
        TEXTS,
        "the prompt is no longer than {threshold} characters",
        "a prompt of this length is mostly a file that was read in a wrong way",
        "shorten it or raise prepare.max_prompt_chars",
        threshold="prepare.max_prompt_chars",
        unit="characters",
        show=("prompt",),
        batch=lambda batch, most: numpy(_longer(batch["prompt"], most)),
    ),
    Rule(
        "prompt_clean",
        TEXTS,
        "the prompt has no control or replacement characters",
        "they are what is left of bytes that were decoded in a wrong way",
        "save the text as UTF-8",
        show=("prompt",),
        batch=lambda batch, _: numpy(unclean(batch["prompt"])),
    ),
    Rule(
        "messages_asked",
        TEXTS,
        "messages, where given, wait for an answer: roles in order, no content empty, the last not the "
        "assistant's",
        "a chat template writes other orders in ways of its own, or not at all",
        show=("messages",),
        batch=_unasked,
    ),
    Rule(
        "messages_length",
        TEXTS,
        "messages are no longer than {threshold} characters together",
        "conversations are never cut, since a cut would take the beginning of a turn",
        "shorten them or raise prepare.max_prompt_chars",
        threshold="prepare.max_prompt_chars",
        unit="characters",
        show=("messages",),
        batch=_messages_too_long,
    ),
    Rule(
        "messages_clean",
        TEXTS,
        "messages have no control or replacement characters",
        "they are what is left of bytes that were decoded in a wrong way",
        "save the text as UTF-8",
        show=("messages",),
        batch=lambda batch, _: batch.of_rows(batch.contents, unclean(batch.contents.values)),
    ),
    Rule(
        "completion_text",
        ANSWERS,
        "every completion has text, after white space where the prompt is plain text",
        "an empty answer teaches that saying nothing is an answer",
        _ROW,
        show=("completion", "completions"),
        batch=_answers_have_text,
    ),
    Rule(
        "completion_length",
        ANSWERS,
        "no completion is longer than {threshold} characters",
        "an answer of this length is mostly a file that was read in a wrong way",
        "shorten it or raise prepare.max_completion_chars",
        threshold="prepare.max_completion_chars",
        unit="characters",
        show=("completion", "completions"),
        batch=lambda batch, most: batch.of_rows(batch.answers, _longer(batch.answers.values, most)),
    ),
    Rule(
        "completion_clean",
        ANSWERS,
        "completions have no control or replacement characters",
        "they are what is left of bytes that were decoded in a wrong way",
        "save the text as UTF-8",
        show=("completion", "completions"),
        batch=lambda batch, _: batch.of_rows(batch.answers, unclean(batch.answers.values)),
    ),
    Rule(
        "completions_number",
        ("comparisons",),
        "a comparison has 2 to {threshold} completions",
        "one answer alone says nothing, and memory grows with the pairs of a ranking",
        threshold=64,
        unit="completions",
        show=("completions",),
        batch=lambda batch, most: (batch.lengths["completions"] < 2) | (batch.lengths["completions"] > most),
    ),
    Rule(
        "ranking_dense",
        ("comparisons",),
        "a ranking gives completions ranks from 1 on, skipping none; null where one was not ranked",
        "a gap would say that an answer is missing, and another number that rows were mixed up",
        "rank like 1, 2, 2, 3: 1 is best, ties share a rank",
        show=("ranking",),
        batch=_not_dense,
    ),
    Rule(
        "ranking_says_something",
        ("comparisons",),
        "a ranking ranks at least two completions",
        "one rank alone prefers nothing to anything, so nothing is learnt from the row",
        "rank another of its completions or leave the row out",
        severity="warn",
        show=("ranking",),
        batch=lambda batch, _: _ranked(batch) < 2,
    ),
    Rule(
        "own_copy",
        ("comparisons",),
        "no completion is ranked against its own copy",
        "a model cannot learn to prefer a text to itself",
        show=("completions",),
        batch=_own_copy,
    ),
    Rule(
        "ranking_follows_scores",
        ("comparisons",),
        "a ranking follows its scores, of which higher is better",
        "an order against the scores it was made of is the usual sign of preferences turned round",
        "turn the ranking round (ingest.direction) or leave the scores out",
        show=("scores", "ranking"),
        batch=_against_scores,
    ),
    Rule(
        "scores_fit",
        ("comparisons",),
        "scores, where given, are one for each completion",
        "a score without its answer belongs to another row",
        "mend them or leave them out",
        show=("scores",),
        batch=_scores_unfit,
    ),
    Rule(
        "both_bad_is_a_tie",
        ("comparisons",),
        "where no completion will do, none is preferred",
        "the two columns of the row contradict each other",
        "mend one of them",
        show=("ranking",),
        batch=_bad_but_preferred,
    ),
    Rule(
        "policies_fit",
        ("comparisons",),
        "policies, where given, name one for each completion",
        "figures by policy would count the wrong one",
        "mend them or leave them out",
        show=("policies",),
        batch=_policies_unfit,
    ),
    Rule(
        "shown_order_fits",
        ("comparisons",),
        "a shown order, where given, is an order of the completions",
        "the preference by position is counted from it",
        "mend it or leave it out",
        show=("shown_order",),
        batch=_order_unfit,
    ),
    Rule(
        "strength_bounds",
        ("comparisons",),
        "a strength, where given, is 1 to 9",
        "it is a labeler's answer on a scale of nine",
        "mend it or leave it out",
        show=("strength",),
        batch=_outside("strength", 1, 9),
    ),
    Rule(
        "seconds_bounds",
        ("comparisons",),
        "seconds, where given, are not negative",
        "nobody answers before being asked",
        "mend them or leave them out",
        show=("seconds",),
        batch=_outside("seconds", 0),
    ),
    Rule(
        "labeler_group_known",
        ("comparisons",),
        "the labeler group is one of {threshold}",
        "figures by group would lack a group",
        "name the group in collect.groups, or set collect.labelers to given",
        threshold="collect.groups",
        show=("labeler_group",),
        batch=lambda batch, known: ~numpy(pc.is_in(batch["labeler_group"], pa.array(known, pa.string()))),
        applies=lambda table, asked: asked.groups is not None,
    ),
    Rule(
        "label_filled",
        ("votes",),
        "a vote says yes or no",
        "a vote without its answer says nothing",
        _ROW,
        show=("completion",),
        batch=lambda batch, _: batch.null("label"),
    ),
    Rule(
        "split_known",
        TEXTS,
        f"the split is one of {', '.join(SPLITS)}",
        "rows of another split would be read by no stage",
        "name one of them or none",
        show=("split",),
        batch=lambda batch, _: ~numpy(pc.is_in(batch["split"], pa.array(SPLITS))),
    ),
    Rule(
        "one_split",
        TEXTS,
        "a prompt is in one split",
        "an evaluation on a prompt that was trained on measures memory",
        "give all rows of a prompt the same split",
        show=_which_splits,
        rows=_two_splits,
    ),
    Rule(
        "unique",
        TEXTS,
        "no row says the same as another",
        "a row that stands twice counts twice",
        "leave one of them out",
        show=_repeats_which,
        rows=_repeats,
    ),
    Rule(
        "source_filled",
        TEXTS,
        "source is never null",
        "a row that nobody can trace cannot be mended",
        _ROW,
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
    ),
    Rule(
        "id_of_content",
        TEXTS,
        "the id is the hash of the content",
        "an id of other content is that of a row which was changed afterwards",
        "leave the ids out to have them filled in",
        show=("id",),
        rows=_other_id,
    ),
)
