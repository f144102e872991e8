"""A judge that is a model is measured before it is believed: against people, and on controls it must pass.

A reward model that learnt from two rankings, or a language model that always names the first text, still
gives a rate with an interval. So the judge answers questions whose answers are known, on prompts that neither
it nor the reward model was trained on: pairs that people ordered, and references against what is surely worse
than they are (`controls`). Its judgments decide something only where the lower end of every interval lies
above its threshold. All must pass, so a judge that is no better than one of the thresholds is accepted no
more often than the level of a single test allows (intersection-union test, Berger 1982, Technometrics
24:295), however many controls there are.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rlhf.data.distinct import first_of_spelling
from rlhf.judges.judge import Judge, PairedJudge, ScoringJudge, blind_pairs
from rlhf.measures.display import rate_text
from rlhf.measures.rates import prompt_means, wilson

ACCURACY = 0.5  # against people: they disagree among themselves, so only a coin is the measure
KIND = 0.5  # against each kind of text that is surely worse: no kind may fool the judge as a coin would
CONTROLS = 0.75  # over all kinds: half-way from a coin to a judge that is always right
CONSISTENT = 0.5  # of pairs shown in both orders: one that mostly contradicts itself knows nothing
LEAST = 10  # prompts; with fewer, Wilson's interval leaves out more than its level

BOTH_ORDERS = "both orders"
TOGETHER = "all controls together"
USELESS = "this judge cannot tell good from random"
UNSHOWN = "nothing shows that this judge can tell good from random"
NO_MODEL = {
    "gold": "no control is needed: the built-in task's exact preference is what other judges are measured by",
    "simulated": "no control is needed: simulated labelers are the built-in task's stand-in for people",
    "human": "no control is needed: people judge, and it is their preference that is measured",
}
_CONTROLS = (
    "shuffled words",
    "another prompt's reference",
    "cut in half",
    "repeated words",
    "random words",
)
_POINTS = {"better": 1.0, "tie": 0.5, "contradiction": 0.5, "unreadable": 0.5, "worse": 0.0}


@dataclass(frozen=True)
class Pair:
    """Two texts of which one is known to be better.

    Attributes:
        prompt: what both answer.
        better, worse: the texts.
        reference: which of the two is the reference, `better` or `worse`; None where neither is.
    """

    prompt: str
    better: str
    worse: str
    reference: str | None = None


Ask = Callable[[str, Sequence[Pair]], Sequence[str]]
"""A judge: a name for the question and pairs -> `better`, `worse`, `tie`, `contradiction` (the other text in
the other order) or `unreadable` for each. It must not learn which text is which."""


def by_score(score: Callable[[list[str], list[str]], list[float]]) -> Ask:
    """A judge that scores each text by itself, the higher score being preferred: n prompts and n texts -> n
    scores. No text is scored twice."""
    known: dict[tuple[str, str], float] = {}

    def ask(_: str, pairs: Sequence[Pair]) -> list[str]:
        sides = [[(pair.prompt, getattr(pair, side)) for pair in pairs] for side in ("better", "worse")]
        new = [text for text in dict.fromkeys(sides[0] + sides[1]) if text not in known]
        if new:
            prompts, texts = (list(column) for column in zip(*new, strict=True))
            known.update(zip(new, score(prompts, texts), strict=True))
        gaps = [known[better] - known[worse] for better, worse in zip(*sides, strict=True)]
        return ["better" if gap > 0 else "worse" if gap < 0 else "tie" for gap in gaps]

    return ask


@dataclass(frozen=True)
class Check:
    """How often a judge was right on one kind of question.

    Attributes:
        name: of the kind.
        rate: mean over prompts, 0..1, a tie or a contradiction counting one half.
        low, high: Wilson interval of the rate.
        n: prompts, or pairs where each is a question of its own.
        threshold: what `low` must exceed.
    """

    name: str
    rate: float
    low: float
    high: float
    n: int
    threshold: float

    @property
    def passed(self) -> bool:
        """Whether the judge is better than the threshold for sure."""
        return self.low > self.threshold and self.n >= LEAST

    @property
    def words(self) -> str:
        """What the judge did at this rate."""
        if self.name == "accuracy":
            return "agrees with the labelers"
        if self.name.startswith(BOTH_ORDERS):
            return self.name.replace(BOTH_ORDERS, "says the same in both orders")
        if self.name == TOGETHER:
            return "prefers the reference in all controls together"
        return f"prefers the reference to {self.name}"

    def estimate(self) -> dict[str, Any]:
        """`rate`, `low`, `high` and `n`, for JSON."""
        return {key: getattr(self, key) for key in ("rate", "low", "high", "n")}

    def as_dict(self) -> dict[str, Any]:
        """The fields and properties by name, for JSON; all checks are a `must`."""
        shown = ("name", "words", "threshold", "passed")
        return self.estimate() | {key: getattr(self, key) for key in shown} | {"must": True}


@dataclass(frozen=True)
class Trust:
    """Whether a judge may decide anything, and what that rests on.

    Attributes:
        decides: whether it passed everything.
        reason: why or why not, in one line.
        accuracy: agreement with labelers; None for a judge that needs no measuring, or without pairs.
        controls: see `controls`; for a judge that sees both texts, also whether it says the same of a pair
            that is turned round.
        sensitivity: points 0..1, one value a prompt, that it gave outputs which labelers preferred to the
            reference; specificity: that it gave references which they preferred to the output.
        confidence: coverage of the intervals, 0..1.
    """

    decides: bool
    reason: str
    accuracy: Check | None = None
    controls: Sequence[Check] = ()
    sensitivity: Sequence[float] = ()
    specificity: Sequence[float] = ()
    confidence: float = 0.95

    def as_dict(self) -> dict[str, Any]:
        """`decides`, `reason`, `accuracy`, `controls`, `sensitivity` and `specificity`, for JSON; rates have
        `rate`, `low`, `high`, `n`, and are None where nothing is known."""
        sides = {"sensitivity": self.sensitivity, "specificity": self.specificity}
        return {
            "decides": self.decides,
            "reason": self.reason,
            "accuracy": self.accuracy and self.accuracy.as_dict(),
            "controls": [check.as_dict() for check in self.controls],
        } | {
            name: _check(name, points, ACCURACY, self.confidence).estimate() if points else None
            for name, points in sides.items()
        }


def measure(
    ask: Ask,
    references: Sequence[Mapping[str, Any]],
    labelled: Sequence[Pair],
    *,
    seed: int,
    confidence: float = 0.95,
    labelers: str = "people",
    consistent: Sequence[bool] | None = None,
) -> Trust:
    """Put a judge that is a model to the test.

    Args:
        ask: the judge.
        references: demonstrations with `prompt` and `completion`, of prompts that trained nobody.
        labelled: pairs that labelers ordered, of such prompts; see `labelled_pairs`.
        seed: of the texts of the controls.
        confidence: coverage of the intervals, 0..1.
        labelers: who ordered the pairs, in words.
        consistent: for a judge that sees both texts at once, whether it preferred the same text in both
            orders, for each pair that it judged in earnest; None for one that scores each text by itself.
    """
    kinds = controls(references, seed)
    said = {name: list(ask(f"control: {name}", pairs)) for name, pairs in kinds.items()}
    checks = [
        _check(name, _by_prompt(kinds[name], _points(words)), KIND, confidence)
        for name, words in said.items()
    ]
    if checks:
        pairs = [pair for pairs_of in kinds.values() for pair in pairs_of]
        points = _points([word for words in said.values() for word in words])
        checks.insert(0, _check(TOGETHER, _by_prompt(pairs, points), CONTROLS, confidence))
    first = next(iter(said.values()), [])  # the kind that is easiest to tell apart
    if consistent is not None:
        plain = [word != "contradiction" for word in first if word != "unreadable"]
        told = {BOTH_ORDERS: plain, f"{BOTH_ORDERS}, outputs": consistent}
        checks = [_check(name, same, CONSISTENT, confidence) for name, same in told.items() if same] + checks
    points = _points(ask("labelled", labelled)) if labelled else []
    means = _by_prompt(labelled, points)
    accuracy = _check("accuracy", means, ACCURACY, confidence) if means else None
    unreadable = first.count("unreadable")
    reason = (
        f"{USELESS}: {unreadable} of {len(first)} replies could not be read"
        if 2 * unreadable > len(first)
        else _failure(checks, accuracy, confidence, labelers)
    )
    return Trust(
        decides=reason is None,
        reason=reason or _success(checks, accuracy, labelers),
        accuracy=accuracy,
        controls=checks,
        sensitivity=_by_prompt(labelled, points, reference="worse"),
        specificity=_by_prompt(labelled, points, reference="better"),
        confidence=confidence,
    )


def controls(references: Sequence[Mapping[str, Any]], seed: int) -> dict[str, list[Pair]]:
    """Each reference against a text that is surely worse than it is.

    | name | the worse text |
    |---|---|
    | shuffled words | the reference's own words in another order |
    | another prompt's reference | fluent, and about something else |
    | cut in half | the first half of the reference |
    | repeated words | the first third of the reference, again and again, as long as the reference |
    | random words | words of all references by lot, as many as the longest has: length alone must not win |

    Words are what white space separates; in a text of fewer than four such words they are its characters. A
    prompt of which no such text can be made (one word, all references alike) is left out.

    Args:
        references: with `prompt` and `completion`, one a prompt.
        seed: of everything drawn by lot.
    """
    texts = [row["completion"] for row in references]
    pieces = [_split(text) for text in texts]
    others = list(dict.fromkeys(texts))
    pool = [word for words, _ in pieces for word in words]
    longest = max((len(words) for words, _ in pieces), default=0)
    made: dict[str, list[Pair]] = {name: [] for name in _CONTROLS}
    for row, text, (words, between) in zip(references, texts, pieces, strict=True):
        rng = random.Random(f"control/{seed}/{row['prompt']}")
        drawn = rng.sample(others, min(2, len(others)))
        third = words[: max(1, len(words) // 3)]
        worse = {
            "shuffled words": _join(rng.sample(words, len(words)), between),
            "another prompt's reference": next((other for other in drawn if other != text), text),
            "cut in half": _join(words[: len(words) // 2], between),
            "repeated words": _join((third * (len(words) // len(third) + 1))[: len(words)], between),
            "random words": " ".join(rng.choices(pool, k=longest)),
        }
        for name, other in worse.items():
            if other.strip() and other.split() != text.split():
                start = text[: len(text) - len(text.lstrip())]  # a space, where texts begin with one
                made[name].append(Pair(row["prompt"], text, start + other.strip(), "better"))
    return {name: pairs for name, pairs in made.items() if pairs}


def labelled_pairs(rankings: Sequence[Mapping[str, Any]], splits: Sequence[str]) -> list[Pair]:
    """The pairs that labelers ordered in rankings of these splits, ties left out.

    Args:
        rankings: rows of the contract COMPARISON; `policies` says which text is the `reference`.
        splits: of prompts that neither the judge nor the reward model was trained on.
    """
    pairs = []
    for row in rankings:
        if row["split"] not in splits:
            continue
        texts, ranks = row["completions"], row["ranking"]
        sources = row.get("policies") or [None] * len(texts)
        for a, better in enumerate(texts):
            for b, worse in enumerate(texts):
                if ranks[a] < ranks[b]:
                    side = {sources[a]: "better", sources[b]: "worse"}.get("reference")
                    pairs.append(Pair(row["prompt"], better, worse, side))
    return pairs


def labelers_of(rankings: Sequence[Mapping[str, Any]]) -> str:
    """Who ranked, in words: programs are not called people."""
    simulated = {row.get("source") == "simulated" for row in rankings}
    return "simulated labelers" if simulated == {True} else "people"


def one_per_prompt(pairs: Sequence[Pair], most: int, seed: int) -> list[Pair]:
    """At most so many of the pairs by lot, of as many prompts as there are: for a judge that costs money."""
    rng = random.Random(f"labelled/{seed}")
    by_prompt: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_prompt.setdefault(pair.prompt, []).append(pair)
    chosen = [rng.choice(same) for same in by_prompt.values()]
    return rng.sample(chosen, min(most, len(chosen)))


def prompts_needed(rate: float, threshold: float, confidence: float) -> int | None:
    """How many prompts at this rate pass; None where no number does, the rate being too low."""
    from scipy.stats import norm

    if rate <= threshold:
        return None
    # Wilson's lower end is the p with (rate - p)^2 = z^2 p (1 - p) / n; set p to the threshold
    z = float(norm.ppf((1 + confidence) / 2))
    return max(LEAST, math.floor(z * z * threshold * (1 - threshold) / (rate - threshold) ** 2) + 1)


def _failure(checks: Sequence[Check], accuracy: Check | None, confidence: float, labelers: str) -> str | None:
    """Why the judge decides nothing, in one line; None where it passed everything."""
    for check in checks:
        if check.name.startswith(BOTH_ORDERS) and check.rate <= check.threshold:
            against = round((1 - check.rate) * check.n)
            return f"{USELESS}: {against} of {check.n} pairs contradict themselves when turned round"
    failed = sorted((c for c in checks if not c.passed), key=lambda c: c.low - c.threshold)
    told = []
    if failed:
        others = f"failed {len(failed)} of {len(checks)} controls, the worst: " if len(failed) > 1 else ""
        told.append((failed[0], others + failed[0].words))
    if accuracy and not accuracy.passed:
        told.append((accuracy, f"agrees with {labelers}"))
    lines, useless = [], False
    for check, what in told:
        line = (
            f"{what} on {rate_text(check.estimate())} of {check.n} held-out prompts, and the lower end must "
            f"lie above {check.threshold:g}"
        )
        needed = prompts_needed(check.rate, check.threshold, confidence)
        useless |= needed is None
        lines.append(f"{line}; at this rate {needed} prompts would do" if needed else line)
    if not checks:
        lines.append("there is no held-out reference of which controls can be made")
    if accuracy is None:
        lines.append(
            f"no pair ordered by {labelers} is on held-out prompts; rankings of prompts in the splits "
            "validation or test are needed (prepare.validation_share, prepare.test_share)"
        )
    return f"{USELESS if useless else UNSHOWN}: {'; '.join(lines)}" if lines else None


def _success(checks: Sequence[Check], accuracy: Check | None, labelers: str) -> str:
    assert accuracy  # without it nothing is shown
    return (
        f"agrees with {labelers} on {rate_text(accuracy.estimate())} of {accuracy.n} held-out prompts "
        f"and passed {len(checks)} controls"
    )


def _points(words: Sequence[str]) -> list[float]:
    return [_POINTS[word] for word in words]


def _check(name: str, points: Sequence[float], threshold: float, confidence: float) -> Check:
    low, high = wilson(points, confidence)
    return Check(name, fmean(map(float, points)), low, high, len(points), threshold)


def _by_prompt(pairs: Sequence[Pair], points: Sequence[float], reference: str | None = None) -> list[float]:
    """Mean points of each prompt, all spellings of which are one; pairs of a prompt share texts and so are no
    observations of their own.

    Args:
        reference: leaves only the pairs in which the reference is the `better` text, or the `worse` one.
    """
    kept = [i for i, pair in enumerate(pairs) if reference in (None, pair.reference)]
    if not kept:
        return []
    means: list[float] = prompt_means(
        [points[i] for i in kept], first_of_spelling([pairs[i].prompt for i in kept])
    ).tolist()
    return means


def _split(text: str) -> tuple[list[str], list[str]]:
    """The words of a text and what stands between them."""
    parts = re.split(r"(\s+)", text.strip())
    if len(parts) < 7:  # fewer than four words: a script without spaces, or a short answer
        return list(text.strip()), [""] * (len(text.strip()) - 1)
    return parts[::2], parts[1::2]


def _join(words: Sequence[str], between: Sequence[str]) -> str:
    return "".join(word + gap for word, gap in zip(words, [*between, ""], strict=False))


def asking(judge: Judge, source: str, seed: int) -> Ask:
    """A judge as `rlhf.measures.judge_trust.measure` asks it.

    Raises:
        TypeError: a judge that neither scores texts nor is asked in both orders.
    """
    if isinstance(judge, ScoringJudge):
        return by_score(judge.score)
    if not isinstance(judge, PairedJudge):
        raise TypeError(f"{judge.name}: no way is known to put this judge to the test")
    words = {"reference": "better", "output": "worse", "tie": "tie"}

    def ask(name: str, known: Sequence[Pair]) -> list[str]:
        # the better text stands where the reference does, which no judge is told
        texts = ([getattr(pair, side) for pair in known] for side in ("prompt", "better", "worse"))
        pairs = blind_pairs(name, *texts, split="control", source=source, seed=seed)
        said = []
        for choices in judge.in_both_orders(pairs):
            first = choices[0]
            if first is None or None in choices:
                said.append("unreadable")
            else:
                said.append(words[first] if len(set(choices)) == 1 else "contradiction")
        return said

    return ask
