"""Who prefers what: a judge looks at a prompt, its reference and an output, and says which is better.

The gold judge reads the built-in task's hidden preference; the model judge is a reward model that was trained
on a split that nothing else saw. Neither is a person, and every table says which one it was.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlhf.contracts import GOLD, JUDGMENT, DataError, read_json, read_table, row_id

KINDS = {
    "gold": "gold preference",
    "model": "model judge",
    "simulated": "simulated labelers",
    "human": "people",
}


class Judge(Protocol):
    """Anything that judges.

    Attributes:
        name: stable id, stored with every judgment.
        kind: `gold`, `model`, `simulated` or `human`.
    """

    name: str
    kind: str

    def prefer(self, prompts: Sequence[str], references: Sequence[str], outputs: Sequence[str]) -> list[str]:
        """`output`, `reference` or `tie` for each of n prompts; texts that are the same are a tie."""
        ...


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
            0.0 if output.strip() == reference.strip() else b - a
            for a, b, reference, output in zip(theirs, ours, references, outputs, strict=True)
        ]

    def prefer(self, prompts: Sequence[str], references: Sequence[str], outputs: Sequence[str]) -> list[str]:
        """See `Judge.prefer`."""
        return [to_preference(margin) for margin in self.margins(prompts, references, outputs)]


def to_preference(margin: float) -> str:
    """A score difference, output minus reference, as a judgment."""
    return "output" if margin > 0 else "reference" if margin < 0 else "tie"


def load_judge(
    folder: Path | str = "models/judge", gold: Path | str = "data/gold/facts.parquet"
) -> ScoringJudge:
    """The judge that `judge.json` in a folder names.

    Args:
        folder: holds `judge.json` with `kind` and `name`, and for kind `model` the model itself.
        gold: table of the built-in task's facts, read by kind `gold` only.

    Raises:
        DataError: no such judge, or no facts to judge by.
    """
    record = read_json(Path(folder) / "judge.json")
    if record.get("kind") == "gold":
        return gold_judge(record["name"], gold)
    if record.get("kind") == "model":
        return model_judge(record["name"], folder)
    raise DataError(f"{folder}/judge.json: unknown kind {record.get('kind')!r}; it must be gold or model")


def gold_judge(name: str, path: Path | str) -> ScoringJudge:
    """Judge by the built-in task's hidden preference."""
    from rlhf.world.gold import gold_score

    facts = {row["prompt"]: json.loads(row["facts"]) for row in read_table(path, GOLD)}
    if not facts:
        raise DataError(
            f"{path}: holds no facts, so there is no gold preference; set evaluate.judge to reward-model "
            "for a source other than builtin"
        )

    def score(prompts: list[str], texts: list[str]) -> list[float]:
        try:
            return [gold_score(facts[prompt], text) for prompt, text in zip(prompts, texts, strict=True)]
        except KeyError as error:
            raise DataError(f"{path}: no facts for the prompt {error.args[0][:60]!r}") from None

    return ScoringJudge(name, "gold", score)


def model_judge(name: str, folder: Path | str) -> ScoringJudge:
    """Judge by a reward model."""
    from rlhf.reward import load_reward, score  # here, so that the gold judge needs no model

    model = load_reward(folder)
    return ScoringJudge(name, "model", lambda prompts, texts: score(model, prompts, texts))


def judgment_rows(
    judge: Judge,
    policy: str,
    prompts: Sequence[str],
    references: Sequence[str],
    outputs: Sequence[str],
    preferred: Sequence[str],
    *,
    split: str,
    source: str,
    seed: int,
) -> list[dict[str, Any]]:
    """Judgments of one policy's outputs as rows of the contract JUDGMENT, in the order of the prompts.

    `shown_order[j]` is what stood at position j: 0 the reference, 1 the output. It is drawn by seed, policy
    and prompt, so that judges who do see an order see a random one, the same one each time.
    """
    rows = []
    for prompt, reference, output, choice in zip(prompts, references, outputs, preferred, strict=True):
        order = [0, 1]
        random.Random(f"{seed}/{policy}/{prompt}").shuffle(order)
        row: dict[str, Any] = {
            "prompt": prompt,
            "reference": reference,
            "output": output,
            "policy": policy,
            "preferred": choice,
            "judge_id": judge.name,
            "judge_kind": judge.kind,
            "shown_order": order,
            "split": split,
            "source": source,
        }
        rows.append(row | {"id": row_id(JUDGMENT, row)})
    return rows
