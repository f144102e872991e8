"""Judges of the built-in task: its hidden preference, and its simulated labelers."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rlhf.data.errors import DataError
from rlhf.judges.judge import Row, ScoringJudge, judged, same, to_preference
from rlhf.world.facts import read_facts


@dataclass
class SimulatedJudge:
    """Simulated labelers of the built-in task, one for each pair, drawn by seed.

    Attributes:
        facts: prompt -> true facts of its post.
        labelers: (id, group) of each; the id becomes the row's `judge_id`.
        seed: who judges what, and their noise, follow from it.
        name, kind: see `Judge`.
    """

    facts: Mapping[str, dict[str, str]]
    labelers: Sequence[tuple[str, str]]
    seed: int
    name: str = "simulated"
    kind: str = "simulated"

    def judge(self, pairs: Sequence[Row]) -> list[Row]:
        """See `Judge.judge`."""
        from rlhf.world.labelers import rank

        rows = []
        for pair in pairs:
            if pair["prompt"] not in self.facts:
                raise DataError(
                    f"no facts for the prompt {pair['prompt'][:60]!r}; "
                    "simulated labelers know the built-in task only"
                )
            rng = random.Random(f"judge/{self.seed}/{pair['policy']}/{pair['prompt']}")
            labeler, group = rng.choice(self.labelers)
            texts = [pair["reference"], pair["output"]]
            label = rank(self.facts[pair["prompt"]], texts, pair["shown_order"], group, rng)
            margin = 0 if same(*texts) else label.ranking[0] - label.ranking[1]
            rows.append(judged(pair, to_preference(margin), labeler, self.kind))
        return rows


def gold_judge(name: str, path: Path | str) -> ScoringJudge:
    """Judge by the built-in task's hidden preference."""
    from rlhf.world.gold import gold_score

    facts = _facts(path)

    def score(prompts: list[str], texts: list[str]) -> list[float]:
        try:
            return [gold_score(facts[prompt], text) for prompt, text in zip(prompts, texts, strict=True)]
        except KeyError as error:
            raise DataError(f"{path}: no facts for the prompt {error.args[0][:60]!r}") from None

    return ScoringJudge(name, "gold", score)


def simulated_judge(groups: Mapping[Any, float], path: Path | str, seed: int) -> SimulatedJudge:
    """Judge by simulated labelers.

    Args:
        groups: labeler group -> its weight among the labelers.
        path: table of the built-in task's facts.
        seed: see `SimulatedJudge`.
    """
    from rlhf.world.labelers import pool

    return SimulatedJudge(_facts(path), pool(groups), seed)


def mean_quality(
    path: Path | str, prompts: Sequence[str], texts: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Mean coverage, accuracy and coherence of texts about posts of the built-in task, 0..1.

    Args:
        path: table of the built-in task's facts.
        prompts: n posts.
        texts: whose they are -> n texts.
    """
    from rlhf.world.gold import quality

    facts = _facts(path)
    axes: dict[str, dict[str, float]] = {}
    for name, written in texts.items():
        measured = [quality(facts[prompt], text) for prompt, text in zip(prompts, written, strict=True)]
        axes[name] = {
            axis: fmean(getattr(row, axis) for row in measured)
            for axis in ("coverage", "accuracy", "coherence")
        }
    return axes


def _facts(path: Path | str) -> dict[str, dict[str, str]]:
    facts = read_facts(path)
    if not facts:
        raise DataError(
            f"{path}: holds no facts, so nobody knows the gold preference; for a source other than builtin "
            "leave gold and simulated out of evaluate.judges"
        )
    return facts
