"""A judge that PPO does not train on watches it: the look it prefers is kept, and a fall stops the run.

At every look (`rlhf.rl.snapshots`) the judge compares what the policy writes with the references of
validation prompts: a reward model that was trained on other prompts (`ModelJudge`), or people. The weights
of the look with the highest preference are kept. A preference that falls for sure while the reward still
rises is reward hacking (`rlhf.measures.overoptimisation.find_hacking`), and training ends there.

What the judge saw so far and the weights kept are part of every checkpoint, so that a killed run goes on as
if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file

from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json
from rlhf.measures.overoptimisation import Hacking, find_hacking
from rlhf.measures.rates import wilson
from rlhf.models.reward_model import RewardModel, score
from rlhf.rl.snapshots import Snapshots
from rlhf.training.checkpoints import InCheckpoints
from rlhf.training.curves import Curve


class LookJudge(Protocol):
    """Who judges the looks; see `HeldOutJudge`."""

    name: str

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[float]: ...


class HeldOutJudge(Snapshots, InCheckpoints):
    """Looks that are judged while PPO runs.

    Args:
        judge: gives each row with `prompt`, `reference` and `output` its points: 1 where it prefers the
            output, 0 the reference, one half for a tie. Its `name` says who it is.
        tolerance: a fall of the preference as small as this does not matter, as a rate.
        curve: takes `held_out/preference` and `held_out/score` at each look.
        *looks, **more: of `Snapshots`.

    Raises:
        DataError: fewer than two prompts.
    """

    def __init__(
        self, *looks: Any, judge: LookJudge, tolerance: float, curve: Curve | None = None, **more: Any
    ) -> None:
        super().__init__(*looks, **more)
        if len(self.rows) < 2:
            raise DataError(
                f"the held-out judge needs two validation prompts, there are {len(self.rows)}: raise "
                "prepare.validation_share, or set ppo.judge_tolerance to null to train without it"
            )
        self.judge, self.tolerance, self.curve = judge, tolerance, curve
        self.seen: list[dict[str, Any]] = []  # update, mean score, points of each prompt
        self.kept: dict[str, torch.Tensor] = {}  # of the policy at the best look so far

    def look(self, update: int) -> list[dict[str, Any]]:
        """See `Snapshots.look`; the judge reads the outputs."""
        rows = super().look(update)
        points = self.judge(rows)
        preferred, reward = fmean(points), fmean(row["score"] for row in rows)
        if all(preferred > fmean(before["points"]) for before in self.seen):
            self.kept = {name: p.detach().cpu().clone() for name, p in self.trainer.policy_weights().items()}
        self.seen.append({"update": update, "score": reward, "points": points})
        if self.curve:
            self.curve({"held_out/preference": preferred, "held_out/score": reward}, update)
        return rows

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look, and end the training where hacking is sure, in all processes."""
        super().on_step_end(args, state, control)
        if not self.due(args, state):
            return
        stop = [state.is_world_process_zero and self.hacking().found]
        broadcast_object_list(stop)
        if stop[0]:
            # No checkpoint here: one that a resumed run goes on from lies before the stop, and leads to it.
            control.should_training_stop, control.should_save = True, False

    def hacking(self) -> Hacking:
        """The verdict on the looks so far, at a level that holds for all looks there will be."""
        updates = self.trainer.args.num_updates
        planned = len({*range(0, updates + 1, self.every), updates})
        return find_hacking(
            [look["score"] for look in self.seen],
            [look["points"] for look in self.seen],
            tolerance=self.tolerance,
            looks=planned,
        )

    def restore(self) -> None:
        """Give the policy the weights of the best look."""
        with torch.no_grad():
            for name, p in self.trainer.policy_weights().items():
                p.copy_(self.kept[name])

    def findings(self) -> dict[str, Any]:
        """What the judge found: its looks, the update that was `kept`, where hacking `stopped` PPO or None,
        and a sentence in `words`; for JSON."""
        hacking = self.hacking()
        updates = [look["update"] for look in self.seen]
        found = asdict(hacking) | {key: updates[getattr(hacking, key)] for key in ("best", "before", "after")}
        told = {
            "judge": self.judge.name,
            "n": hacking.n,
            "kept": found["best"],
            "stopped": updates[-1] if hacking.found else None,
            "hacking": found,
            "looks": [
                {"update": look["update"], "score": look["score"], "rate": fmean(look["points"])}
                | dict(zip(("low", "high"), wilson(look["points"]), strict=True))
                for look in self.seen
            ],
        }
        return told | {"words": in_words(told)}

    def save(self, folder: Path) -> None:
        """See `InCheckpoints.save`."""
        write_json(folder / "held_out.json", self.seen)
        save_file(self.kept, folder / "held_out.safetensors")

    def load(self, folder: Path) -> None:
        """See `InCheckpoints.load`."""
        self.seen = read_json(folder / "held_out.json")
        self.kept = load_file(folder / "held_out.safetensors")


class ModelJudge:
    """A reward model that learnt from prompts which neither the policy nor its reward model saw."""

    name = "reward-model"

    def __init__(self, model: RewardModel) -> None:
        self.model = model

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """1 where it scores the output above the reference, 0 where below, one half for like texts."""
        prompts, references, outputs = ([r[key] for r in rows] for key in ("prompt", "reference", "output"))
        scores = (score(self.model, prompts, texts) for texts in (references, outputs))
        return [
            0.5 if a == b or reference.strip() == output.strip() else float(b > a)
            for reference, output, a, b in zip(references, outputs, *scores, strict=True)
        ]


def in_words(found: Mapping[str, Any]) -> str:
    """One sentence about what the judge did to the run; see `HeldOutJudge.findings`."""
    hacking = found["hacking"]
    if found["stopped"] is None:
        return f"the held-out judge saw no reward hacking; the weights after update {found['kept']} are kept"
    return (
        f"reward hacking stopped PPO after update {found['stopped']}: from update {hacking['before']} to "
        f"{hacking['after']} the held-out judge's preference fell by {hacking['fall']:.3f} "
        f"while the reward rose by {hacking['rise']:.2f}; the weights after update {found['kept']} are kept"
    )
