"""What a reader has to know before the numbers of an evaluation: one sentence each, none where all is well.

A rate can be right and say nothing: where every output is the reference, where a training left the weights as
they were, where few prompts were judged, or where nothing shows that the judge can tell good from random.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.measures.display import LABELS, number

MOST = 0.5  # share of outputs from which on the numbers show a peculiarity rather than quality
FEW = 100  # prompts; with fewer, a 95 % interval is wider than 0.2 for a rate near one half


def caveats(
    evaluation: Mapping[str, Any],
    outputs: Mapping[str, Sequence[str]],
    references: Sequence[str],
    weights: Mapping[str, str],
) -> list[str]:
    """The sentences, the most serious one first.

    Args:
        evaluation: the content of metrics/evaluation.json.
        outputs: policy -> one text a prompt.
        references: one a prompt, in the same order.
        weights: policy -> hash of its weights.
    """
    return [
        *_untrusted(evaluation),
        *_untrained(outputs, weights),
        *_peculiar(outputs, references),
        *_few(evaluation),
    ]


def _untrusted(evaluation: Mapping[str, Any]) -> list[str]:
    return [
        f"The judge {name} decides nothing: {judge['trust']['reason'].rstrip('.')}."
        for name, judge in evaluation["judges"].items()
        if not judge["trust"]["decides"]
    ]


def _untrained(outputs: Mapping[str, Sequence[str]], weights: Mapping[str, str]) -> list[str]:
    """Policies that are no different from the policy that their training started from."""
    sentences = []
    for after, before in (("sft", "pretrained"), ("ppo", "sft")):
        now, then = LABELS[after], LABELS[before]
        if weights[after] == weights[before]:
            sentences.append(f"The weights of {now} are those of {then}: {now} has changed nothing.")
        elif list(outputs[after]) == list(outputs[before]):
            sentences.append(f"Every output of {now} is the one of {then}, though their weights differ.")
    return sentences


def _peculiar(outputs: Mapping[str, Sequence[str]], references: Sequence[str]) -> list[str]:
    """Policies that mostly repeat the reference, one text, or nothing."""
    sentences, n = [], len(references)
    for policy, texts in outputs.items():
        written = [text.strip() for text in texts]
        copied = sum(text == reference.strip() for text, reference in zip(written, references, strict=True))
        text, often = Counter(written).most_common(1)[0]
        label = LABELS.get(policy, policy)
        if copied >= MOST * n:
            sentences.append(
                f"{label}: {_share_text(copied, n)} equal their references. Equal texts tie, so the rate "
                "says little."
            )
        elif often >= MOST * n and often > 1:
            sentences.append(
                f"{label}: {_share_text(often, n)} are {'one and the same text' if text else 'empty'}."
            )
    return sentences


def _few(evaluation: Mapping[str, Any]) -> list[str]:
    n, row = evaluation["n"], evaluation["policies"]["ppo"]
    if n >= FEW:
        return []
    half = number((row["high"] - row["low"]) / 2, 2)
    count = "1 prompt was" if n == 1 else f"{n} prompts were"
    return [f"Only {count} judged: PPO's rate is known to about {half} in either direction."]


def _share_text(count: int, n: int) -> str:
    return f"all {n} outputs" if count == n else f"{count} of {n} outputs"
