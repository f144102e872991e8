"""Rules about preferences: who gave them, whether they contradict each other, and what else explains them."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from rlhf.data.unnamed import UNKNOWN
from rlhf.measures.rates import wilson
from tasks.rules.rule import Figure, Mask, Rule
from tasks.rules.view import PROMPTS, Batch, Gathered, View, numpy, text_hashes

_FEW = 30  # of fewer preferences a share says nothing
_UNNAMED = rf"^{UNKNOWN}(-\d+)?$"  # what labelers are called whom a file does not name


class Preferences(NamedTuple):
    """The neighbouring ranks of all rankings of a table as pairs of a better and a worse completion.

    Attributes:
        row: the row of each pair.
        better, worse: 64-bit hashes of the texts.
        before: 1 where the better text was shown before the worse, 0 where behind it, NaN where nobody knows.
        longer: 1 where the better text has more characters, 0 where it has fewer, NaN where as many.
    """

    row: Any
    better: Any
    worse: Any
    before: Any
    longer: Any


def preferences(view: View) -> Preferences:
    """The pairs of a table's rankings, from rank to next rank; ties and what has no rank give none."""
    return Preferences(*view.gathered(PREFERENCES))


def _of_batch(batch: Batch, start: int) -> Preferences:
    texts, ranks, rows = batch.ranked
    keys = text_hashes(texts)
    lengths = pc.fill_null(pc.utf8_length(texts), 0).to_numpy(zero_copy_only=False)
    shown = _shown_places(batch, rows)
    order = np.lexsort((ranks, rows))
    a, b = order[:-1], order[1:]
    ordered = (rows[a] == rows[b]) & (ranks[a] < ranks[b])  # NaN is less than nothing
    a, b = a[ordered], b[ordered]
    gap = np.sign(lengths[a] - lengths[b]) if len(a) else np.zeros(0)
    longer = np.where(gap == 0, np.nan, (gap > 0).astype(float))
    before = np.where(np.isnan(shown[a] - shown[b]), np.nan, (shown[a] < shown[b]).astype(float))
    return Preferences(start + rows[a], keys[a], keys[b], before, longer)


PREFERENCES = Gathered(
    "preferences",
    lambda _: ["completions", "ranking", "shown_order"],
    _of_batch,
    [np.int64, np.uint64, np.uint64, np.float64, np.float64],
)


def _shown_places(batch: Batch, rows: Any) -> Any:
    """For each completion of these rows where it stood on the screen, NaN where nobody knows.

    Args:
        batch: the rows.
        rows: the row of each completion, those of a row one behind the other.
    """
    flat, lengths = batch.flat("shown_order"), batch.lengths["shown_order"]
    known = (lengths > 0) & (lengths == batch.lengths["completions"])
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    positions = np.arange(len(flat.rows)) - starts[flat.rows]
    shown = numpy(pc.cast(pc.fill_null(flat.values, -1), pa.int64()))
    fits = known[flat.rows] & (shown >= 0) & (shown < lengths[flat.rows])
    first = np.full(batch.size, -1)
    first[rows[::-1]] = np.arange(len(rows))[::-1]  # where the completions of each row begin
    places = np.full(len(rows), np.nan)
    fits &= first[flat.rows] >= 0
    places[first[flat.rows][fits] + shown[fits]] = positions[fits]
    return places


def _labelers(view: View) -> tuple[Any, list[str]]:
    """A number for each row's labeler, -1 for one whom nobody named, and the names."""
    column = pc.fill_null(view.column("labeler_id"), UNKNOWN)
    codes, names = pd.factorize(column.to_numpy())
    unnamed = np.array([bool(re.match(_UNNAMED, name)) for name in names], bool)
    return np.where(unnamed[codes], -1, codes) if len(codes) else codes, list(names)


def _unnamed(batch: Batch, _: Any) -> Mask:
    return numpy(pc.fill_null(pc.match_substring_regex(batch["labeler_id"], _UNNAMED), True))


def _ties(view: View, _: Any) -> Figure | None:
    if view.size < _FEW:
        return None
    decided = len(np.unique(preferences(view).row))
    share = 1 - decided / view.size
    return Figure(share, f"{view.size - decided} of {view.size} rankings prefer nothing, {share:.0%}")


def _away_from_half(points: Any, of_what: str) -> Figure | None:
    """How far the interval of a share lies from one half, and the share in words."""
    if len(points) < _FEW:
        return None
    low, high = wilson(points)
    distance = max(low - 0.5, 0.5 - high, 0.0)
    share = float(np.mean(points))
    return Figure(distance, f"{of_what} in {share:.0%} [{low:.0%}, {high:.0%}] of {len(points)} pairs")


def _length(view: View, _: Any) -> Figure | None:
    told = preferences(view)
    _, first = np.unique(told.row, return_index=True)  # a pair a ranking, since those of one are not apart
    longer = told.longer[first]
    return _away_from_half(longer[~np.isnan(longer)], "the longer answer is preferred")


def _position(view: View, _: Any) -> Figure | None:
    told = preferences(view)
    _, first = np.unique(told.row, return_index=True)
    points = told.before[first]
    return _away_from_half(points[~np.isnan(points)], "the answer shown first is preferred")


def _constant(view: View, least: float) -> Mask:
    """Rows of labelers who always prefer the answer at one place of the screen, or never prefer any."""
    codes, names = _labelers(view)
    told = preferences(view)
    frame = pd.DataFrame({"labeler": codes[told.row], "before": told.before}).dropna()
    frame = frame[frame["labeler"] >= 0]
    by_labeler = frame.groupby("labeler")["before"].agg(["size", "mean"])
    constant = by_labeler[(by_labeler["size"] >= least) & by_labeler["mean"].isin([0.0, 1.0])].index
    rankings = np.bincount(codes[codes >= 0], minlength=len(names))
    decided = np.bincount(codes[np.unique(told.row)][codes[np.unique(told.row)] >= 0], minlength=len(names))
    only_ties = np.flatnonzero((rankings >= least) & (decided == 0))
    return np.isin(codes, np.concatenate([constant.to_numpy(dtype=int), only_ties]))


def _show_labeler(view: View, number: int) -> str:
    labeler = view.column("labeler_id")[number].as_py()
    codes, names = _labelers(view)
    rows = np.flatnonzero(codes == names.index(labeler))
    before = preferences(view).before[np.isin(preferences(view).row, rows)]
    before = before[~np.isnan(before)]
    what = "a tie" if not len(before) else "the answer shown " + ("first" if before[0] else "last")
    return f"labeler {labeler!a}: all {len(rows)} rankings say {what}"


def _contradictions(view: View, _: Any) -> Mask:
    """Rows whose preference the same labeler turned round elsewhere, directly or in a circle.

    A preference is an edge from the better text to the worse; one that lies in a strongly connected part of
    the graph of a labeler and a prompt is on a circle.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    broken = np.zeros(view.size, bool)
    told, (codes, _names) = preferences(view), _labelers(view)
    named = codes[told.row] >= 0
    row, better, worse = told.row[named], told.better[named], told.worse[named]
    if not len(row):
        return broken
    whose = view.prompts[row] ^ (codes[row].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    nodes, numbers = np.unique(
        np.concatenate([better ^ (whose << np.uint64(1)), worse ^ (whose << np.uint64(1))]),
        return_inverse=True,
    )
    a, b = numbers[: len(row)], numbers[len(row) :]
    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(len(nodes), len(nodes)))
    part = connected_components(graph.tocsr(), directed=True, connection="strong")[1]
    broken[row[part[a] == part[b]]] = True
    return broken


def _agreement(view: View, _: Any) -> Figure | None:
    """How often two labelers of the same answers agree; the figure is the upper end of its interval."""
    told, (codes, _names) = preferences(view), _labelers(view)
    low, high = np.minimum(told.better, told.worse), np.maximum(told.better, told.worse)
    frame = pd.DataFrame(
        {
            "prompt": view.prompts[told.row],
            "low": low,
            "high": high,
            "labeler": np.where(codes[told.row] < 0, -1 - told.row, codes[told.row]),
            "first": told.better == low,
        }
    ).drop_duplicates(["prompt", "low", "high", "labeler"])
    votes = frame.groupby(["prompt", "low", "high"])["first"].agg(["size", "sum"])
    votes = votes[votes["size"] > 1]
    if len(votes) < _FEW:
        return None
    n, yes = votes["size"].to_numpy(), votes["sum"].to_numpy()
    alike = (yes * (yes - 1) + (n - yes) * (n - yes - 1)) / (n * (n - 1))
    ends = wilson(alike)
    return Figure(
        ends[1],
        f"two labelers agree in {alike.mean():.0%} [{ends[0]:.0%}, {ends[1]:.0%}] of {len(votes)} pairs",
    )


RULES = (
    Rule(
        "labeler_known",
        ("comparisons", "votes"),
        "it is known who gave the label",
        "labelers can only be told apart, weighted or asked again by their names",
        "give labeler_id, or leave it so: such labels all count alike",
        severity="warn",
        show=("prompt",),
        batch=lambda batch, _: numpy(
            pc.fill_null(pc.match_substring_regex(batch["labeler_id"], _UNNAMED), True)
        ),
    ),
    Rule(
        "constant_labeler",
        ("comparisons",),
        "no labeler says the same {threshold} times and never anything else",
        "by chance nobody prefers the answer on the same side so often",
        "ask whether the labeler read the answers, and leave the rows out if not",
        severity="warn",
        threshold=15,
        unit="rankings",
        show=_show_labeler,
        rows=_constant,
        needs=(PREFERENCES,),
    ),
    Rule(
        "contradiction",
        ("comparisons",),
        "no labeler contradicts an own preference",
        "of two preferences that exclude each other, or three in a circle, one at least is a mistake",
        "ask the labeler or leave the rows out",
        severity="warn",
        show=("labeler_id",),
        rows=_contradictions,
        needs=(PREFERENCES, PROMPTS),
    ),
    Rule(
        "ties",
        ("comparisons",),
        "at most {threshold} of the rankings prefer nothing",
        "a reward model learns nothing from ties",
        "ask for more differences: other answers, or a finer scale",
        severity="warn",
        threshold=0.5,
        unit="share",
        figure=_ties,
        needs=(PREFERENCES,),
    ),
    Rule(
        "length_preference",
        ("comparisons",),
        "the share of preferences for the longer answer lies within {threshold} of one half, or may",
        "a reward model learns to count characters if they predict the preference",
        "compare answers of similar length, or see the rates at equal length in the report",
        severity="warn",
        threshold=0.2,
        unit="share",
        figure=_length,
        needs=(PREFERENCES,),
    ),
    Rule(
        "position_preference",
        ("comparisons",),
        "the share of preferences for the answer shown first lies within {threshold} of one half, or may",
        "where an answer stands says nothing about it",
        "show answers in random order, and leave out labelers who do not read them",
        severity="warn",
        threshold=0.1,
        unit="share",
        figure=_position,
        needs=(PREFERENCES,),
    ),
    Rule(
        "agreement",
        ("comparisons",),
        "labelers of the same answers agree for sure in more than {threshold} of the pairs, or may do so",
        "where people agree no more than coins do, there is no preference to learn",
        "make the guideline clearer, and label the disputed pairs again",
        severity="warn",
        threshold=0.55,
        unit="share",
        least=True,
        figure=_agreement,
        needs=(PREFERENCES, PROMPTS),
    ),
)
