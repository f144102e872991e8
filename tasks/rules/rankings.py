"""Rules of what labelers said of a row: ranks, scores, order, strength, seconds; and the answer of a vote."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.rules.rule import FILL, Mask, Rule
from tasks.rules.view import Batch, numpy, text_hashes


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


RULES = (
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
        FILL,
        show=("completion",),
        batch=lambda batch, _: batch.null("label"),
    ),
)
