"""A panel of simulated experts who read what a policy writes while it is trained.

They stand in for the people who would be asked about checkpoints. Like every simulated labeler they follow
the gold preference with noise, and only what they say leaves this module.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.data.errors import DataError
from rlhf.world.facts import read_facts
from rlhf.world.labelers import rank


class Panel:
    """One expert a pair of output and reference, seen in a random order.

    Args:
        path: table of the built-in task's facts.
        seed: the experts' noise and the orders follow from it.
    """

    name = "simulated experts"

    def __init__(self, path: Path | str, seed: int) -> None:
        self.facts = read_facts(path)
        self.seed = seed

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """1 where the output is preferred, 0 where the reference is, one half for ties and like texts.

        Args:
            rows: with `prompt`, `reference` and `output`.

        Raises:
            DataError: a prompt that is not of the built-in task.
        """
        points = []
        for row in rows:
            if row["prompt"] not in self.facts:
                raise DataError(
                    f"no facts for the prompt {row['prompt'][:60]!r}; simulated experts know the built-in "
                    "task only: set ppo.judge to reward-model"
                )
            texts = [row["reference"], row["output"]]
            rng = random.Random(f"panel/{self.seed}/{row['prompt']}/{row['output']}")
            order = rng.sample([0, 1], 2)
            ranks = rank(self.facts[row["prompt"]], texts, order, "expert", rng).ranking
            tie = texts[0].strip() == texts[1].strip()
            points.append(0.5 if tie else 0.5 * (1 + (ranks[0] > ranks[1]) - (ranks[0] < ranks[1])))
        return points
