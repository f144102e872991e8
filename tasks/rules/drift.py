"""Rules about drift: what differs from the last version of the data set, by more than chance alone explains.

`validate` compares the profiles of two versions (`tasks/rules/profile.py`). Its result must not depend on
what ran before, or DVC would restore outdated outputs: so these findings are said, and kept with the run
(`runs/`, Data Docs, MLflow), and are no part of the stage's metrics.

- Population stability index, the sum of (p - q) ln(p / q): 0.1 is said to be a small change and 0.25 a large
  one (Siddiqi 2006). Of two samples of the same it is distributed as chi-squared, with a degree of freedom
  less than there are bins, times 1/n + 1/m (Yurdakul and Naranjo 2020).
- Jensen-Shannon distance, the root of the divergence in bits, 0 to 1 (Endres and Schindelin 2003): 8 times
  the divergence in nats is distributed in the same way (Grosse et al. 2002).
- The difference of two shares, with the interval of Newcombe (1998, method 10).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rlhf.measures.rates import wilson
from tasks.rules.profile import profile
from tasks.rules.rule import TEXTS, Figure, Rule
from tasks.rules.view import View

_FEW = 30  # rows or shares of fewer say nothing
_CLUSTERED = 5  # words and characters of a text are alike: so many count as one
Counts = np.ndarray[Any, Any]


def stability(now: Counts, before: Counts) -> float:
    """The population stability index of two histograms, without what chance explains; 0 or more."""
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in (now, before))
    bins = int(((now > 0) | (before > 0)).sum())
    return max(0.0, float(((p - q) * np.log(p / q)).sum()) - _chance(bins, now.sum(), before.sum()))


def distance(now: Counts, before: Counts, clustered: float = 1) -> float:
    """The Jensen-Shannon distance of two histograms, without what chance explains; 0 to 1.

    Args:
        now, before: the counts.
        clustered: how many counts are worth one, because they are not independent.
    """
    from scipy.special import rel_entr  # here, for commands that only list the rules

    p, q = now / now.sum(), before / before.sum()
    middle = (p + q) / 2
    nats = sum(float(rel_entr(part, middle).sum()) / 2 for part in (p, q))
    nats -= _chance(int((middle > 0).sum()), now.sum() / clustered, before.sum() / clustered) / 8
    return math.sqrt(max(0.0, nats) / math.log(2))


def _chance(bins: int, n: float, m: float) -> float:
    """What two samples of the same may differ by: the mean and two standard deviations."""
    free = max(bins - 1, 0)
    return (free + 2 * math.sqrt(2 * free)) * (1 / n + 1 / m)


def difference(now: tuple[int, int], before: tuple[int, int]) -> tuple[float, float]:
    """The interval of the difference of two shares, each given as how many of how many."""
    (a, n), (b, m) = now, before
    p, q = a / n, b / m
    (low, high), (less, more) = _interval(a, n), _interval(b, m)
    return p - q - math.hypot(p - low, more - q), p - q + math.hypot(high - p, q - less)


def _interval(count: int, of_all: int) -> tuple[float, float]:
    """Wilson's interval of a share."""
    return wilson(np.repeat([1.0, 0.0], [count, of_all - count]))


def new_share(now: Counts, before: Counts) -> tuple[int, int]:
    """How many of the hashes that both sketches reach are in the first alone, and of how many."""
    reach = min(now.max(initial=0), before.max(initial=0))
    reached = now[now <= reach]
    return int((~np.isin(reached, before)).sum()), len(reached)


def profile_of(view: View) -> dict[str, Any]:
    """The profile of a table, kept on the view because several rules ask for it."""
    if "profile" not in view.__dict__:
        view.__dict__["profile"] = profile(view)
    return view.__dict__["profile"]


def _compared(figures: Callable[[Mapping[str, Any], Mapping[str, Any]], list[Figure]]) -> Any:
    """The largest of some figures of two profiles; none where there is no last version, or few rows."""

    def largest(view: View, _: Any) -> Figure | None:
        before = view.last
        if before is None or min(view.size, before["rows"]) < _FEW:
            return None
        return max(figures(profile_of(view), before), key=lambda figure: figure.value, default=None)

    return largest


def _values(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[Figure]:
    told = []
    for column, counts in now["values"].items():
        old = before["values"].get(column, {})
        names = list({**old, **counts})
        a, b = (np.array([part.get(name, 0) for name in names], float) for part in (counts, old))
        if a.sum() and b.sum():
            most = int(np.abs(a / a.sum() - b / b.sum()).argmax())
            change = f"{names[most]!a} was {b[most] / b.sum():.0%} and is {a[most] / a.sum():.0%}"
            told.append(Figure(value := stability(a, b), f"{column}: index {value:.2f}, {change}"))
    return told


def _lengths(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[Figure]:
    told = []
    for column, counts in now["lengths"].items():
        a, b = np.array(counts, float), np.array(before["lengths"].get(column, [0]), float)
        if len(a) == len(b) and a.sum() and b.sum():
            halves = [
                2 ** max(int(np.searchsorted(np.cumsum(part), part.sum() / 2)) - 1, 0) for part in (b, a)
            ]
            change = f"half had {halves[0]} characters or more, now {halves[1]}"
            told.append(Figure(value := stability(a, b), f"{column}: index {value:.2f}, {change}"))
    return told


def _texts(name: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], list[Figure]]:
    def figures(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[Figure]:
        a, b = np.array(now[name], float), np.array(before[name], float)
        if len(a) != len(b) or not a.sum() or not b.sum():
            return []
        return [Figure(value := distance(a, b, _CLUSTERED), f"{name}: distance {value:.2f}")]

    return figures


def _shares(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[Figure]:
    told = []
    for name, (count, of_all) in now["shares"].items():
        old, of_old = before["shares"].get(name, (0, 0))
        if min(of_all, of_old) >= _FEW:
            low, high = difference((count, of_all), (old, of_old))
            change = f"{name}: {old / of_old:.0%} of {of_old}, now {count / of_all:.0%} of {of_all}"
            told.append(Figure(max(low, -high, 0.0), f"{change}, difference [{low:+.0%}, {high:+.0%}]"))
    return told


def _prompts(words: str, new: bool) -> Any:
    def figures(*profiles: Mapping[str, Any]) -> list[Figure]:
        hashes = [np.array(part.get("prompts", []), np.uint64) for part in profiles]
        count, reached = new_share(*(hashes if new else hashes[::-1]))
        if reached < _FEW:
            return []
        low, high = _interval(count, reached)
        return [Figure(low, f"{count / reached:.0%} [{low:.0%}, {high:.0%}] of the prompts {words}")]

    return _compared(figures)


def _rule(
    name: str, tables: tuple[str, ...], text: str, reason: str, threshold: float, unit: str, figure: Any
) -> Rule:
    return Rule(
        name,
        tables,
        text,
        reason,
        f"see that it is meant, or set validate.thresholds to {{{name}: ...}}",
        severity="warn",
        threshold=threshold,
        unit=unit,
        figure=figure,
    )


_ALL = (*TEXTS, "corpus")
RULES = (
    _rule(
        "drift_values",
        _ALL,
        "sources, splits and labeler groups have the shares that they had in the last version (population "
        "stability index at most {threshold})",
        "figures of two versions differ by what they were measured on",
        0.25,
        "index",
        _compared(_values),
    ),
    _rule(
        "drift_lengths",
        _ALL,
        "texts are as long as in the last version (population stability index at most {threshold})",
        "a policy learns how long to answer, and a file that was cut looks like this",
        0.25,
        "index",
        _compared(_lengths),
    ),
    _rule(
        "drift_characters",
        _ALL,
        "texts have the kinds of characters of the last version (Jensen-Shannon distance at most "
        "{threshold})",
        "another script, markup or a damaged encoding shows in the characters first",
        0.1,
        "distance",
        _compared(_texts("characters")),
    ),
    _rule(
        "drift_words",
        _ALL,
        "texts have the words of the last version (Jensen-Shannon distance at most {threshold})",
        "a policy that is asked about other things than before is not the worse for it",
        0.3,
        "distance",
        _compared(_texts("words")),
    ),
    _rule(
        "drift_labels",
        ("comparisons", "votes"),
        "ties, preferences for the first or the longer answer, and thumbs up are as frequent as in the last "
        "version, within {threshold}, or may be",
        "people or a guideline that changed change what is preferred",
        0.05,
        "share",
        _compared(_shares),
    ),
    _rule(
        "new_prompts",
        ("demonstrations", "comparisons", "votes"),
        "at most {threshold} of the prompts are not in the last version, or may be",
        "a rate on other prompts is another measurement",
        0.5,
        "share",
        _prompts("are new", new=True),
    ),
    _rule(
        "lost_prompts",
        ("demonstrations", "comparisons", "votes"),
        "at most {threshold} of the prompts of the last version are gone, or may be",
        "a file that was left out is missed by nobody else",
        0.1,
        "share",
        _prompts("of the last version are gone", new=False),
    ),
)
NAMES = frozenset(rule.name for rule in RULES)
