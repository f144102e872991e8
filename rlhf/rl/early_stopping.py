"""Early stopping of PPO by a judge that it does not train on.

The judge reads every evaluation snapshot (`rlhf.rl.snapshots`) and compares the outputs of the policy with
the references: a reward model that was trained on other prompts (`ModelJudge`), or people. The weights of the
snapshot with the highest preference are kept. A preference that falls for sure while the reward still rises
is reward hacking (`rlhf.measures.overoptimisation.find_hacking`), and training ends there.

The judgments so far and the weights kept are part of every checkpoint, so a killed run goes on as if nothing
had happened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file

from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json
from rlhf.measures.display import number
from rlhf.measures.overoptimisation import Hacking, find_hacking
from rlhf.measures.rates import wilson
from rlhf.rl.rewards import Scorer
from rlhf.rl.snapshots import Snapshots
from rlhf.training.checkpoints import InCheckpoints
from rlhf.training.curves import Curve


class SnapshotJudge(Protocol):
    """Who judges the snapshots; see `EarlyStopping`."""

    name: str

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[float]: ...


class EarlyStopping(Snapshots, InCheckpoints):
    """Snapshots that are judged while PPO runs.

    Args:
        judge: gives each row with `prompt`, `reference` and `output` its points: 1 if it prefers the output,
            0 if the reference, one half for a tie. Its `name` says who it is.
        tolerance: the largest fall of the preference that does not matter, as a rate.
        curve: takes `held_out/preference` and `held_out/score` at each snapshot.
        *snapshots, **more: the arguments of `Snapshots`.

    Raises:
        DataError: fewer than two prompts.
    """

    def __init__(
        self, *snapshots: Any, judge: SnapshotJudge, tolerance: float, curve: Curve | None = None, **more: Any
    ) -> None:
        super().__init__(*snapshots, **more)
        if len(self.rows) < 2:
            raise DataError(
                f"the early-stopping judge needs two validation prompts, there are {len(self.rows)}: raise "
                "prepare.validation_share, or set ppo.judge_tolerance to null to train without it"
            )
        self.judge, self.tolerance, self.curve = judge, tolerance, curve
        self.judged: list[dict[str, Any]] = []  # of each snapshot: update, mean score, points of each prompt
        self.kept: dict[str, torch.Tensor] = {}  # the weights of the policy at the best snapshot so far

    def take(self, update: int) -> list[dict[str, Any]]:
        """See `Snapshots.take`; the judge reads the outputs."""
        rows = super().take(update)
        points = self.judge(rows)
        preferred, reward = fmean(points), fmean(row["score"] for row in rows)
        if all(preferred > fmean(before["points"]) for before in self.judged):
            learning = self.trainer.networks.learning_policy()
            self.kept = {name: p.detach().cpu().clone() for name, p in learning.items()}
        self.judged.append({"update": update, "score": reward, "points": points})
        if self.curve:
            self.curve({"held_out/preference": preferred, "held_out/score": reward}, update)
        return rows

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take a snapshot, and end the training in all processes if hacking is sure."""
        super().on_step_end(args, state, control)
        if not self.due(args, state):
            return
        stop = [state.is_world_process_zero and self.hacking().detected]
        broadcast_object_list(stop)
        if stop[0]:
            # No checkpoint is written here: a resumed run goes on from one before the stop, and stops again.
            control.should_training_stop, control.should_save = True, False

    def hacking(self) -> Hacking:
        """The verdict on the snapshots so far, at a level that holds for all snapshots there will be."""
        updates = self.trainer.args.num_updates
        planned = len({*range(0, updates + 1, self.every), updates})
        return find_hacking(
            [snapshot["score"] for snapshot in self.judged],
            [snapshot["points"] for snapshot in self.judged],
            tolerance=self.tolerance,
            planned=planned,
        )

    def restore(self) -> None:
        """Give the policy the weights of the best snapshot."""
        with torch.no_grad():
            for name, p in self.trainer.networks.learning_policy().items():
                p.copy_(self.kept[name])

    def findings(self) -> dict[str, Any]:
        """What the judge saw and did, for JSON.

        Returns:
            `judge`, `n` (prompts), `looks` (the snapshots with their rates), `hacking`, the update that was
            `kept`, the update at which hacking `stopped` PPO or None, and a sentence in `words`.
        """
        hacking = self.hacking()
        updates = [snapshot["update"] for snapshot in self.judged]
        verdict = hacking.as_dict(updates)
        findings = {
            "judge": self.judge.name,
            "n": hacking.n,
            "kept": verdict["best"],
            "stopped": updates[-1] if hacking.detected else None,
            "hacking": verdict,
            "looks": [
                {"update": snapshot["update"], "score": snapshot["score"], "rate": fmean(snapshot["points"])}
                | dict(zip(("low", "high"), wilson(snapshot["points"]), strict=True))
                for snapshot in self.judged
            ],
        }
        return findings | {"words": sentence(findings)}

    def save(self, folder: Path) -> None:
        """See `InCheckpoints.save`."""
        write_json(folder / "early_stopping.json", self.judged)
        save_file(self.kept, folder / "early_stopping.safetensors")

    def load(self, folder: Path) -> None:
        """See `InCheckpoints.load`."""
        self.judged = read_json(folder / "early_stopping.json")
        self.kept = load_file(folder / "early_stopping.safetensors")


class ModelJudge:
    """A reward model trained on prompts that neither the policy nor its reward model was trained on.

    Args:
        scorer: what scores texts by that model; see `PPOTrainer.scorer`.
    """

    name = "reward-model"

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """1 if the output scores above the reference, 0 if below, one half for equal scores or texts."""
        references, outputs = ([row[key] for row in rows] for key in ("reference", "output"))
        scores = (self.scorer(rows, texts) for texts in (references, outputs))
        return [
            0.5 if a == b or reference.strip() == output.strip() else float(b > a)
            for reference, output, a, b in zip(references, outputs, *scores, strict=True)
        ]


def sentence(findings: Mapping[str, Any]) -> str:
    """One sentence about what the judge did to the run; see `EarlyStopping.findings`."""
    hacking, kept = findings["hacking"], findings["kept"]
    if findings["stopped"] is None:
        return f"the held-out judge saw no reward hacking; the weights after update {kept} are kept"
    return (
        f"reward hacking stopped PPO after update {findings['stopped']}: from update {hacking['before']} to "
        f"{hacking['after']} the held-out judge's preference fell by {number(hacking['fall'])} "
        f"while the reward rose by {number(hacking['rise'], 2)}; the weights after update {kept} are kept"
    )
