"""Why a judge decides, or decides nothing, in one line."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf.measures.display import rate_text
from rlhf.measures.judge_checks import BOTH_ORDERS, Check, prompts_needed

USELESS = "this judge cannot tell good from random"
UNSHOWN = "nothing shows that this judge can tell good from random"
NO_MODEL = {
    "gold": "no control is needed: the built-in task's exact preference is what other judges are measured by",
    "simulated": "no control is needed: simulated labelers are the built-in task's stand-in for people",
    "human": "no control is needed: people judge, and it is their preference that is measured",
}


def reason(
    checks: Sequence[Check], accuracy: Check | None, confidence: float, labelers: str
) -> tuple[bool, str]:
    """Whether a judge decides, and why.

    Args:
        checks: the controls, and whether it says the same in both orders.
        accuracy: its agreement with labelers; None where there is no pair that they ordered.
        confidence: coverage of the intervals, 0..1.
        labelers: who ordered the pairs, as a text.
    """
    for check in checks:
        if check.name.startswith(BOTH_ORDERS) and check.rate <= check.threshold:
            turned = round((1 - check.rate) * check.n)
            return False, f"{USELESS}: {turned} of {check.n} pairs contradict themselves when turned round"
    lines, useless = [], False
    for check, text in _failures(checks, accuracy, labelers):
        line = (
            f"{text} on {rate_text(check.estimate())} of {check.n} held-out prompts, and the lower end must "
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
    if lines or accuracy is None:
        return False, f"{USELESS if useless else UNSHOWN}: {'; '.join(lines)}"
    return True, (
        f"agrees with {labelers} on {rate_text(accuracy.estimate())} of {accuracy.n} held-out prompts "
        f"and passed {len(checks)} controls"
    )


def _failures(checks: Sequence[Check], accuracy: Check | None, labelers: str) -> list[tuple[Check, str]]:
    """The failed checks that a reason names, each with what the judge did: the worst control and accuracy."""
    failures = []
    failed = sorted((check for check in checks if not check.passed), key=lambda c: c.low - c.threshold)
    if failed:
        count = f"failed {len(failed)} of {len(checks)} controls, the worst: " if len(failed) > 1 else ""
        failures.append((failed[0], count + failed[0].text))
    if accuracy and not accuracy.passed:
        failures.append((accuracy, f"agrees with {labelers}"))
    return failures
