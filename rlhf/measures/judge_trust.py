"""A judge that is a model is measured before it is believed: against people, and on controls it must pass.

A reward model that learnt from two rankings, or a language model that always names the first text, still
gives a rate with an interval. So the judge answers questions whose answers are known
(`rlhf.measures.known_pairs`), on prompts that trained neither it nor the reward model. Its judgments decide
something only where the lower end of every interval lies above its threshold. All checks must pass, so a
judge that is no better than one of the thresholds is accepted no more often than the level of a single test
allows (intersection-union test, Berger 1982, Technometrics 24:295), however many controls there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.data.conversations import PromptRows
from rlhf.data.distinct import first_of_spelling
from rlhf.judges.judge import Judge, PairedJudge, ScoringJudge, blind_pairs
from rlhf.measures.judge_checks import (
    ACCURACY,
    BOTH_ORDERS,
    CONSISTENT,
    CONTROLS,
    KIND,
    TOGETHER,
    Check,
    check_of,
)
from rlhf.measures.known_pairs import KnownPair, controls
from rlhf.measures.rates import prompt_means
from rlhf.measures.trust_reasons import USELESS, reason

_POINTS = {"better": 1.0, "tie": 0.5, "contradiction": 0.5, "unreadable": 0.5, "worse": 0.0}

Ask = Callable[[str, Sequence[KnownPair]], Sequence[str]]
"""How a judge is asked: the question's name and pairs -> `better`, `worse`, `tie`, `contradiction` (the other
text in the other order) or `unreadable` for each pair. The judge must not learn which text is which."""


@dataclass(frozen=True)
class Trust:
    """Whether a judge may decide anything, and what that rests on.

    Attributes:
        decides: whether it passed everything.
        reason: why or why not, in one line.
        accuracy: agreement with labelers; None for a judge that needs no measuring, or without pairs.
        controls: see `rlhf.measures.known_pairs.controls`; for a judge that sees both texts, also whether it
            says the same of a pair that is turned round.
        sensitivity: points 0..1, one value a prompt, that it gave to outputs which labelers preferred to the
            reference; specificity: to references which they preferred to the output.
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
            name: check_of(name, points, ACCURACY, self.confidence).estimate() if points else None
            for name, points in sides.items()
        }


def measure(
    ask: Ask,
    references: Sequence[Mapping[str, Any]],
    labelled: Sequence[KnownPair],
    *,
    seed: int,
    confidence: float = 0.95,
    labelers: str = "people",
    consistent: Sequence[bool] | None = None,
) -> Trust:
    """Put a judge that is a model to the test.

    Args:
        ask: the judge; see `asking` and `by_score`.
        references: demonstrations with `prompt` and `completion`, of prompts that trained nobody.
        labelled: pairs of such prompts that labelers ordered; see `known_pairs.labelled_pairs`.
        seed: of the texts of the controls.
        confidence: coverage of the intervals, 0..1.
        labelers: who ordered the pairs, as a text.
        consistent: for a judge that sees both texts at once, whether it preferred the same text in both
            orders, for each pair that it judged in earnest; None for one that scores each text by itself.
    """
    kinds = controls(references, seed)
    answers = {name: list(ask(f"control: {name}", pairs)) for name, pairs in kinds.items()}
    checks = [
        check_of(name, _by_prompt(kinds[name], _points(of_kind)), KIND, confidence)
        for name, of_kind in answers.items()
    ]
    if checks:
        pairs = [pair for of_kind in kinds.values() for pair in of_kind]
        points = _points([answer for of_kind in answers.values() for answer in of_kind])
        checks.insert(0, check_of(TOGETHER, _by_prompt(pairs, points), CONTROLS, confidence))
    easiest = next(iter(answers.values()), [])  # the first kind is the easiest to tell apart
    if consistent is not None:
        plain = [answer != "contradiction" for answer in easiest if answer != "unreadable"]
        turned = {BOTH_ORDERS: plain, f"{BOTH_ORDERS}, outputs": consistent}
        checks = [
            check_of(name, same, CONSISTENT, confidence) for name, same in turned.items() if same
        ] + checks
    points = _points(ask("labelled", labelled)) if labelled else []
    means = _by_prompt(labelled, points)
    accuracy = check_of("accuracy", means, ACCURACY, confidence) if means else None
    unreadable = easiest.count("unreadable")
    if 2 * unreadable > len(easiest):
        decides, why = False, f"{USELESS}: {unreadable} of {len(easiest)} replies could not be read"
    else:
        decides, why = reason(checks, accuracy, confidence, labelers)
    return Trust(
        decides=decides,
        reason=why,
        accuracy=accuracy,
        controls=checks,
        sensitivity=_by_prompt(labelled, points, reference="worse"),
        specificity=_by_prompt(labelled, points, reference="better"),
        confidence=confidence,
    )


def asking(judge: Judge, source: str, seed: int, rows: Iterable[Mapping[str, Any]] = ()) -> Ask:
    """A judge as `measure` asks it.

    Args:
        judge: one that scores texts, or that is asked in both orders.
        source: of the rows, as in the contract JUDGMENT.
        seed: of the order in which the judge sees the texts.
        rows: with the conversations that prompts are the text of, so that the judge is asked in turns as it
            is in earnest; other prompts are plain text.

    Raises:
        TypeError: a judge of another kind.
    """
    if isinstance(judge, ScoringJudge):
        return by_score(judge.score)
    if not isinstance(judge, PairedJudge):
        raise TypeError(f"{judge.name}: no way is known to put this judge to the test")
    conversations = PromptRows(rows)
    sides = {"reference": "better", "output": "worse", "tie": "tie"}

    def ask(name: str, known: Sequence[KnownPair]) -> list[str]:
        # the better text stands where the reference does, which no judge is told
        prompts = conversations.of(pair.prompt for pair in known)
        texts = ([getattr(pair, side) for pair in known] for side in ("better", "worse"))
        pairs = blind_pairs(name, prompts, *texts, split="control", source=source, seed=seed)
        answers = []
        for choices in judge.in_both_orders(pairs):
            first = choices[0]
            if first is None or None in choices:
                answers.append("unreadable")
            else:
                answers.append(sides[first] if len(set(choices)) == 1 else "contradiction")
        return answers

    return ask


def by_score(score: Callable[[list[str], list[str]], list[float]]) -> Ask:
    """A judge that scores each text by itself and prefers the higher score, as `measure` asks it.

    Args:
        score: n prompts and n texts -> n scores. No text is scored twice.
    """
    known: dict[tuple[str, str], float] = {}

    def ask(_: str, pairs: Sequence[KnownPair]) -> list[str]:
        better = [(pair.prompt, pair.better) for pair in pairs]
        worse = [(pair.prompt, pair.worse) for pair in pairs]
        new = [text for text in dict.fromkeys(better + worse) if text not in known]
        if new:
            prompts, texts = (list(column) for column in zip(*new, strict=True))
            known.update(zip(new, score(prompts, texts), strict=True))
        gaps = [known[b] - known[w] for b, w in zip(better, worse, strict=True)]
        return ["better" if gap > 0 else "worse" if gap < 0 else "tie" for gap in gaps]

    return ask


def _points(answers: Sequence[str]) -> list[float]:
    return [_POINTS[answer] for answer in answers]


def _by_prompt(
    pairs: Sequence[KnownPair], points: Sequence[float], reference: str | None = None
) -> list[float]:
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
