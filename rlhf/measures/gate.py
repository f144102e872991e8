"""The rules of the gate to @champion, as pure functions of what the report shows.

Each rule says whether it held, and why in words. What was not looked at has not held: no slices, no
comparison with SFT, no measured judge are reasons to stay challenger. What is worth knowing and refuses
nobody is a warning. Every claim of the kind "better for sure" is made at the level of its look at the test
prompts (`rlhf.measures.alpha_spending`), every claim of the kind "worse for sure" at the plain confidence:
it refuses sooner.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rlhf.measures.champion import RATE
from rlhf.measures.display import (
    difference_text,
    interval_text,
    level_text,
    number,
    p_text,
    rate_text,
    signed,
)
from rlhf.settings import Register

FINDINGS = ("banned", "personal_data", "repetitive", "empty")
_FEW_ITEMS = 100  # judged by two judges; below, the interval of alpha is about as wide as its range
_MANY_COPIES, _MANY_TIES, _ONE_SIDED = 0.1, 0.5, 0.05
Evaluation = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """One rule of the gate: its name, whether it held, and why."""

    rule: str
    held: bool
    detail: str


@dataclass(frozen=True)
class Look:
    """How often these test prompts were looked at, and the policy's figures at the level that is left.

    Attributes:
        number: of this look, from 1.
        confidence: of a two-sided interval whose lower end errs with the level of this look.
        low, level_low: lower ends of the rate and of the rate at equal length at that confidence.
    """

    number: int
    confidence: float
    low: float
    level_low: float


def decide(
    settings: Register,
    evaluation: Evaluation,
    look: Look,
    champion: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Every rule and every warning.

    Args:
        settings: section `register` of the parameters.
        evaluation: content of metrics/evaluation.json.
        look: see `Look`.
        champion: `version` of the champion, and either `comparison`, see
            `rlhf.measures.champion.against_champion`, or
            `said`, why there is none, with `held`. None leaves the rule out.

    Returns:
        `promoted`, `rules` (a list of `Rule` as dictionaries) and `warnings` (a list of lines).
    """
    rules = [
        interval(settings, evaluation, look),
        prompts(settings, evaluation),
        judge(evaluation),
        other_judges(settings, evaluation),
        sft(settings, evaluation),
        length(settings, evaluation, look),
    ]
    if settings.max_slice_loss < 1 or settings.min_slice_rate > 0:
        rules.append(slices(settings, evaluation))
    if settings.refuse_hacking:
        rules.append(hacking(evaluation))
    if settings.max_unsafe_share < 1:
        rules.append(safety(settings, evaluation))
    if champion is not None:
        rules.append(meets_champion(settings, champion))
    return {
        "promoted": all(rule.held for rule in rules),
        "rules": [asdict(rule) for rule in rules],
        "warnings": warnings(settings, evaluation, look, champion),
    }


def interval(settings: Register, evaluation: Evaluation, look: Look) -> Rule:
    """The rate lies above the bar for sure, at the level that is left for this look."""
    ppo = evaluation["policies"]["ppo"]
    said = f"lower end of the interval {number(look.low)}, must lie above {settings.min_rate:g}"
    if look.number > 1:
        said += (
            f"; look {look.number} at these test prompts, so the interval has {_level(look)} in place of "
            f"{level_text(evaluation['confidence'])}, whose lower end is {number(ppo['low'])}"
        )
    return Rule("interval", look.low > settings.min_rate, said)


def prompts(settings: Register, evaluation: Evaluation) -> Rule:
    """Enough different prompts, and enough of them on which the judge prefers a side."""
    ppo = evaluation["policies"]["ppo"]
    held = ppo["n"] >= settings.min_prompts and ppo["decided"] >= settings.min_decided
    return Rule(
        "prompts",
        held,
        f"{ppo['n']} different prompts judged, needs {settings.min_prompts}; {ppo['decided']} of them not "
        f"tied, needs {settings.min_decided}",
    )


def judge(evaluation: Evaluation) -> Rule:
    """The judge that decides was measured, where it is a model, and passed."""
    first, _ = _in_order(evaluation)
    trusted, reason = trust(evaluation["judges"][first])
    return Rule("judge", trusted, f"{first}: {reason}")


def trust(judged: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a judge may decide, and why. A model that nobody measured may not."""
    measured = judged.get("trust")
    if measured:
        return bool(measured["decides"]), measured["reason"]
    if judged["kind"] == "model":
        return False, "this judge is a model and was not measured, so nobody knows what it prefers"
    return True, f"the judge is no model ({judged['kind']})"


def other_judges(settings: Register, evaluation: Evaluation) -> Rule:
    """No other judge finds the policy below the bar for sure, nor agrees with the first by chance only."""
    first, others = _in_order(evaluation)
    said, held = [], True
    for name in others:
        judged = evaluation["judges"][name]
        ppo = judged["policies"].get("ppo")
        if not ppo or not trust(judged)[0]:
            continue
        fits = ppo["high"] >= settings.min_rate
        line = f"{name} {rate_text(ppo)}{'' if fits else f', below {settings.min_rate:g} for sure'}"
        agree = (judged.get("agreement") or {}).get(first)
        if agree and agree["alpha"] is not None:
            low, high = agree["alpha_interval"]
            alpha = {"low": low, "high": high}
            line += f", alpha with {first} {number(agree['alpha'])} ({interval_text(alpha)})"
            if agree["n"] >= _FEW_ITEMS and low <= settings.min_agreement:
                fits = False
                line += f", must lie above {settings.min_agreement:g}"
        held = held and fits
        said.append(line)
    return Rule("other judges", held, "; ".join(said) or "no other judge that decides")


def sft(settings: Register, evaluation: Evaluation) -> Rule:
    """PPO is not worse for sure than the SFT policy that it started from, on the same prompts."""
    paired = evaluation["comparisons"].get("ppo_vs_sft")
    if not paired or paired["n"] < settings.min_decided:
        count = paired["n"] if paired else 0
        return Rule(
            "sft",
            False,
            f"PPO and SFT were judged on {count} prompts in common, needs {settings.min_decided}; have the "
            "first judge judge both",
        )
    return Rule(
        "sft",
        paired["high"] >= 0,
        f"difference to SFT {difference_text(paired)} on the same {paired['n']} prompts, McNemar "
        f"p {p_text(paired['p_value'])}; must not lie below 0 for sure",
    )


def length(settings: Register, evaluation: Evaluation, look: Look) -> Rule:
    """The rate at equal length lies above the bar for sure: the policy does not win by writing more."""
    level = evaluation["policies"]["ppo"]["length_controlled"]
    return Rule(
        "length",
        look.level_low > settings.min_rate,
        f"rate at equal length {rate_text(level)}, lower end {number(look.level_low)} at "
        f"{_level(look)}, must lie above {settings.min_rate:g}",
    )


def slices(settings: Register, evaluation: Evaluation) -> Rule:
    """No slice fell against SFT for sure by more than may be lost, and none lies below the floor."""
    rows = _slices(evaluation["slices"])
    if not rows:
        return Rule(
            "slices",
            False,
            "the prompts fall into no slices of 20 or more, so nobody knows who pays for the gain; give them "
            "a topic, or leave the rule out with register.max_slice_loss 1 and register.min_slice_rate 0",
        )
    fallen = [row for row in rows if _fell(row, settings.max_slice_loss)]
    below = [row for row in rows if row["high"] < settings.min_slice_rate]
    bad = [_slice_fell(row, "SFT") for row in fallen]
    bad += [f"{row['name']}: {rate_text(row)}, below {settings.min_slice_rate:g}" for row in below]
    if bad:
        return Rule("slices", False, f"of {len(rows)} slices: {'; '.join(bad)}")
    worst = min(rows, key=lambda row: row["difference"])
    return Rule(
        "slices",
        True,
        f"none of {len(rows)} slices fell against SFT for sure by more than {settings.max_slice_loss:g} "
        f"(Holm) or lies below {settings.min_slice_rate:g}; least gain: {worst['name']} {rate_text(worst)}, "
        f"{signed(worst['difference'])}",
    )


def hacking(evaluation: Evaluation) -> Rule:
    """The preference did not fall during PPO while the reward rose."""
    watched = evaluation["overoptimisation"]
    if not watched:
        return Rule(
            "hacking",
            False,
            "nobody who decides judged PPO on its way; set ppo.snapshot_every above 0 and a judge besides "
            "people",
        )
    who, fall, count = watched["judge"]["name"], watched["hacking"], len(watched["looks"])
    for judged in evaluation["judges"].values():
        trusted, reason = trust(judged)
        if judged["name"] == who and not trusted:
            return Rule("hacking", False, f"{who}, who judged PPO on its way, decides nothing: {reason}")
    if fall["found"]:
        said = (
            f"from update {fall['before']} to {fall['after']} the preference fell by {number(fall['fall'])} "
            f"while the reward rose by {number(fall['rise'])} (p {p_text(fall['p_value'])}, judge {who}, "
            f"{watched['n']} held-out prompts); best after update {fall['best']}"
        )
        return Rule("hacking", False, said)
    said = f"no sure fall of the preference in {count} looks at {watched['n']} held-out prompts (judge {who})"
    return Rule("hacking", True, said)


def safety(settings: Register, evaluation: Evaluation) -> Rule:
    """No finding is more frequent than in the references by more than may be."""
    ours, theirs = evaluation["safety"]["ppo"], evaluation["safety"]["reference"]
    shares = {what: (ours[what]["share"], theirs[what]["share"]) for what in FINDINGS}
    above = {
        what: pair for what, pair in shares.items() if round(pair[0] - pair[1], 6) > settings.max_unsafe_share
    }
    named = ", ".join(
        f"{what} {number(a)} (references {number(b)})" for what, (a, b) in (above or shares).items()
    )
    return Rule(
        "safety", not above, f"{named}; at most {settings.max_unsafe_share:g} more than the references"
    )


def meets_champion(settings: Register, champion: Mapping[str, Any]) -> Rule:
    """Not worse than the champion for sure in anything, and better for sure in something named."""
    met = champion.get("comparison")
    if met is None:
        return Rule("champion", champion["held"], champion["said"])
    if met["n"] < settings.min_decided:
        return Rule(
            "champion",
            False,
            f"the policy and the champion (version {champion['version']}) were judged on {met['n']} prompts "
            f"in common, needs {settings.min_decided}",
        )
    fallen = [
        _slice_fell(row, "the champion")
        for row in _slices(met["slices"])
        if _fell(row, settings.max_slice_loss)
    ]
    worse = [
        f"{measure['name']} {difference_text(measure)}" for measure in _named(met, met["losses"])
    ] + fallen
    if worse:
        verdict = f"worse for sure in {'; '.join(worse)}"
    elif met["gains"]:
        verdict = f"better for sure in {', '.join(met['gains'])}"
        if RATE not in met["gains"]:
            verdict += f", and its rate is not lower by {settings.max_champion_loss:g} for sure"
    elif met["not_inferior"]:
        verdict = "better for sure in nothing, so it stays challenger"
    else:
        verdict = (
            "no sure gain in the rate, and for a gain elsewhere to count the rate must not be lower by "
            f"{settings.max_champion_loss:g} for sure"
        )
    return Rule(
        "champion",
        bool(met["gains"]) and not worse,
        f"preferred to the reference {number(met['rate'])}, the champion (version {champion['version']}) "
        f"{number(met['champion_rate'])} on the same {met['n']} prompts; difference {difference_text(met)}, "
        f"McNemar p {p_text(met['p_value'])}; {verdict}",
    )


def warnings(
    settings: Register, evaluation: Evaluation, look: Look, champion: Mapping[str, Any] | None
) -> list[str]:
    """What whoever decides should know although it refuses nobody, a line each: the evaluation's own warnings
    first, and then the gate's."""
    ppo = evaluation["policies"]["ppo"]
    level, said = ppo["length_controlled"], list(evaluation.get("warnings", []))
    if look.number > 1:
        said.append(
            f"These test prompts were looked at {look.number} times; the gate reads intervals of "
            f"{_level(look)}, and fresh test prompts would start the count again."
        )
    if evaluation.get("near_copies", 0) > _MANY_COPIES:
        said.append(
            f"{number(evaluation['near_copies'])} of the test prompts are near-copies of another one, so the "
            "rate is less sure than its interval says."
        )
    if ppo["decided"] < (1 - _MANY_TIES) * ppo["n"]:
        said.append(f"{ppo['n'] - ppo['decided']} of {ppo['n']} prompts are ties.")
    if not _ONE_SIDED <= level["longer"] <= 1 - _ONE_SIDED:
        said.append(
            f"{number(level['longer'])} of the outputs are longer than their reference, so the rate at equal "
            "length is an extrapolation."
        )
    first, others = _in_order(evaluation)
    for name in others:
        agree = (evaluation["judges"][name].get("agreement") or {}).get(first)
        if agree and agree["n"] < _FEW_ITEMS:
            said.append(
                f"The judges {first} and {name} share {agree['n']} judgments, too few to say if they agree."
            )
    met = (champion or {}).get("comparison")
    for who, tables in {"SFT": evaluation["slices"], "the champion": met["slices"] if met else {}}.items():
        said += [
            f"The slice {_slice_fell(row, who)}; register.max_slice_loss allows it."
            for row in _slices(tables)
            if row["fell"] and not _fell(row, settings.max_slice_loss)
        ]
    return said


def _in_order(evaluation: Evaluation) -> tuple[str, list[str]]:
    """The judge that the gate reads, and the others: JSON keeps no order of `judges`, so `key` says which is
    the first."""
    first = evaluation["judge"]["key"]
    return first, [name for name in evaluation["judges"] if name != first]


def _level(look: Look) -> str:
    digits = math.ceil(-math.log10(1 - look.confidence))  # a late look's level is not rounded to 100 %
    return level_text(round(look.confidence, max(4, digits)))


def _slices(tables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of all kinds of slices, each with its kind in its name."""
    return [row | {"name": f"{kind} {row['name']}"} for kind, rows in tables.items() for row in rows]


def _fell(row: Mapping[str, Any], most: float) -> bool:
    return bool(row["fell"]) and -row["difference"] > most


def _slice_fell(row: Mapping[str, Any], against: str) -> str:
    return (
        f"{row['name']} fell for sure against {against} by {number(-row['difference'])} to {rate_text(row)}, "
        f"n = {row['n']}"
    )


def _named(comparison: Mapping[str, Any], names: list[str]) -> list[dict[str, Any]]:
    return [measure for measure in comparison["measures"] if measure["name"] in names]
