"""What a judge is: it reads a prompt, a reference and an output, and says which of the two texts is better.

| judge | kind | who decides |
|---|---|---|
| `rlhf.judges.people.HumanJudge` | human | people, who judged before |
| `rlhf.judges.reward_model.model_judge` | model | a reward model, trained on a split that nothing else saw |
| `rlhf.judges.language_model.LlmJudge` | model | a language model behind a chat-completions endpoint |
| `rlhf.world.judges.gold_judge` | gold | the built-in task's hidden preference |
| `rlhf.world.judges.simulated_judge` | simulated | its simulated labelers, with their noise and habits |

Only the first is people, and every row says which kind judged it. `blind_pairs` makes what is judged; every
judge takes that and gives rows of the contract JUDGMENT.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from rlhf.data.contracts import JUDGMENT, row_id

KINDS = {
    "gold": "gold preference",
    "model": "model judge",
    "simulated": "simulated labelers",
    "human": "people",
}
Row = dict[str, Any]


class Judge(Protocol):
    """Anything that judges.

    Attributes:
        name: stable id, stored with every judgment.
        kind: `gold`, `model`, `simulated` or `human`.
    """

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> str: ...

    def judge(self, pairs: Sequence[Row]) -> list[Row]:
        """Judge what `blind_pairs` made.

        Whoever judges learns neither which text is the reference nor the policy's name, and sees the texts in
        `shown_order`. Texts that are the same are a tie.

        Returns:
            Rows of the contract JUDGMENT: several a pair where several people judged it, none where nobody
            did. So count prompts in what comes back, not in what was asked.
        """
        ...


@runtime_checkable
class PairedJudge(Protocol):
    """A judge that sees both texts of a pair at once, and is asked in both orders."""

    def in_both_orders(self, pairs: Sequence[Row]) -> list[list[str | None]]:
        """What the judge says of each pair, first in `shown_order` and then turned round.

        Returns:
            `output`, `reference`, `tie` or None (unreadable) for each order; a single `tie` where both texts
            are the same, because nobody is asked about those.
        """
        ...


@runtime_checkable
class Explains(Protocol):
    """A judge that can say what went wrong when it was asked."""

    def faults(self) -> str:
        """What went wrong so far, in one line for people; empty where nothing did."""
        ...


def blind_pairs(
    policy: str,
    prompts: Sequence[Mapping[str, Any]],
    references: Sequence[str],
    outputs: Sequence[str],
    *,
    split: str,
    source: str,
    seed: int,
) -> list[Row]:
    """What is to be judged: rows of the contract JUDGMENT that lack the judgment, in the order of the
    prompts.

    `shown_order[j]` is what stands at position j: 0 the reference, 1 the output. It is drawn by seed, policy
    and prompt: random, yet the same each time.

    Args:
        prompts: rows with `prompt`, and `messages` where it is the text of a conversation.
    """
    pairs = []
    for row, reference, output in zip(prompts, references, outputs, strict=True):
        order = [0, 1]
        random.Random(f"{seed}/{policy}/{row['prompt']}").shuffle(order)
        pairs.append(
            {
                "prompt": row["prompt"],
                "messages": row.get("messages"),
                "reference": reference,
                "output": output,
                "policy": policy,
                "shown_order": order,
                "split": split,
                "source": source,
            }
        )
    return pairs


def judged(pair: Row, preferred: str, judge_id: str, judge_kind: str) -> Row:
    """A pair with its judgment and its id: a row of the contract JUDGMENT."""
    row = {**pair, "preferred": preferred, "judge_id": judge_id, "judge_kind": judge_kind}
    return row | {"id": row_id(JUDGMENT, row)}


@dataclass
class ScoringJudge:
    """A judge that scores each text by itself: the higher score is preferred, equal scores are a tie.

    Attributes:
        name, kind: see `Judge`.
        score: n prompts and n texts -> n scores.
    """

    name: str
    kind: str
    score: Callable[[list[str], list[str]], list[float]]

    def margins(
        self, prompts: Sequence[str], references: Sequence[str], outputs: Sequence[str]
    ) -> list[float]:
        """Score of each output minus the score of its reference; 0 where both are the same text."""
        theirs = self.score(list(prompts), list(references))
        ours = self.score(list(prompts), list(outputs))
        return [
            0.0 if same(reference, output) else b - a
            for a, b, reference, output in zip(theirs, ours, references, outputs, strict=True)
        ]

    def prefer(self, prompts: Sequence[str], references: Sequence[str], outputs: Sequence[str]) -> list[str]:
        """`output`, `reference` or `tie` for each of n prompts."""
        return [to_preference(margin) for margin in self.margins(prompts, references, outputs)]

    def judge(self, pairs: Sequence[Row]) -> list[Row]:
        """See `Judge.judge`."""
        texts = ([pair[column] for pair in pairs] for column in ("prompt", "reference", "output"))
        return [
            judged(pair, choice, self.name, self.kind)
            for pair, choice in zip(pairs, self.prefer(*texts), strict=True)
        ]


def to_preference(margin: float) -> str:
    """A score difference, output minus reference, as a judgment."""
    return "output" if margin > 0 else "reference" if margin < 0 else "tie"


def same(reference: str, output: str) -> bool:
    """Whether two texts are the same but for white space around them: a tie for every judge."""
    return reference.strip() == output.strip()
