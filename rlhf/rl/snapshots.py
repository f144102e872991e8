"""Evaluation snapshots of PPO: answers to the same prompts every few updates, their scores and their KL.

The snapshots are a table that a judge reads afterwards (`rlhf.measures.snapshot_judgments`): a preference
that falls while the reward model's score rises is reward hacking. Best-of-n of the start policy
stands beside them, the other way to a higher score (Gao et al. 2022). Nothing here judges;
`rlhf.rl.early_stopping` does while PPO runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from rlhf.data.contracts import SNAPSHOT, with_ids
from rlhf.data.table import read_table, write_table
from rlhf.measures.overoptimisation import best_of_n_kl
from rlhf.models.batches import batch_of, token_batches
from rlhf.models.logprobs import response_logprobs
from rlhf.models.reward_model import RewardModel
from rlhf.models.sampling import generate
from rlhf.models.template import Row, answered
from rlhf.rl.checks import check_score
from rlhf.rl.rewards import RewardAdapter
from rlhf.rl.shards import gather

if TYPE_CHECKING:
    from rlhf.rl.trainer import PPOTrainer


class Snapshots(TrainerCallback):
    """Takes the snapshots of a run, a table each in a folder; a resumed run keeps the earlier ones.

    Args:
        trainer: the trainer of the policy.
        reward: the reward model that the policy is trained on.
        demonstrations: prompts that train nothing, with their references; rows of the contract DEMONSTRATION.
        folder: where the tables go, beside the checkpoints.
        every: updates between snapshots; there is also one of the start and one of the last update.
        best_of: largest n of the best-of-n snapshots of the start; n doubles from one to the next.
    """

    def __init__(
        self,
        trainer: PPOTrainer,
        reward: RewardModel | RewardAdapter,
        demonstrations: Sequence[Row],
        folder: Path,
        every: int,
        best_of: int = 1,
    ) -> None:
        self.trainer, self.rows, self.score = trainer, demonstrations, trainer.scorer(reward)
        self.folder, self.every, self.best_of = folder, every, best_of

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the snapshots of the start."""
        if state.global_step == 0:
            gather(self.trainer.networks)
            if state.is_world_process_zero:
                self.take_best_of_n(self.take(0))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take a snapshot after an update; before its checkpoint is written, so that none is ever missing."""
        if self.due(args, state):
            gather(self.trainer.networks)
            if state.is_world_process_zero:
                self.take(state.global_step // args.steps_per_update)

    def due(self, args: Any, state: Any) -> bool:
        """Whether an update with a snapshot has just ended."""
        update, inside = divmod(state.global_step, args.steps_per_update)
        return inside == 0 and (update % self.every == 0 or update == args.num_updates)

    def take(self, update: int) -> list[dict[str, Any]]:
        """Write the table of the policy as it is now, and return its rows, one a prompt."""
        outputs = self._sample(self.rows, self.trainer.args.seed)
        scores, kl = self._scores(self.rows, outputs, update), self._kl(outputs)
        self.trainer.check_finite("the KL to the start", sum(kl))
        return self._write(f"{update:07d}", update, 1, list(zip(outputs, scores, kl, strict=True)))

    def take_best_of_n(self, first: Sequence[Mapping[str, Any]]) -> None:
        """Write the tables of best-of-n by the reward, n = 2, 4, 8 ..., of the policy as it is now.

        Args:
            first: one sample for each prompt, as `take` returns them.
        """
        more = self.best_of - 1
        if not more:
            return
        rows = [row for row in self.rows for _ in range(more)]
        outputs = self._sample(rows, self.trainer.args.seed + 1)
        scores = self._scores(rows, outputs, 0)
        samples = [
            [
                (row["score"], row["output"]),
                *zip(scores[at : at + more], outputs[at : at + more], strict=True),
            ]
            for row, at in zip(first, range(0, len(rows), more), strict=True)
        ]
        n = 2
        while n <= self.best_of:
            best = [max(tried[:n], key=lambda pair: pair[0]) for tried in samples]  # the first of equals
            self._write(f"best-of-{n:04d}", 0, n, [(text, value, best_of_n_kl(n)) for value, text in best])
            n *= 2

    def _scores(self, rows: Sequence[Row], outputs: list[str], update: int) -> list[float]:
        scores = self.score(rows, outputs)
        for value, row, output in zip(scores, rows, outputs, strict=True):
            check_score(value, "model", row["prompt"], output, update, self.trainer.args.output_dir)
        return scores

    def _sample(self, rows: Sequence[Row], seed: int) -> list[str]:
        args = self.trainer.args
        return generate(
            self.trainer.policy,
            rows,
            temperature=args.temperature,
            max_new_tokens=args.response_length,
            seed=seed,
        )

    def _write(
        self, name: str, update: int, n: int, outputs: list[tuple[str, float, float]]
    ) -> list[dict[str, Any]]:
        """Write a table of one (output, score, KL) a prompt, and return its rows."""
        rows = [
            {
                "update": update,
                "n": n,
                "prompt": row["prompt"],
                "messages": row.get("messages"),
                "reference": row["completion"],
                "output": output,
                "score": value,
                "kl": kl,
                "source": row["source"],
            }
            for row, (output, value, kl) in zip(self.rows, outputs, strict=True)
        ]
        rows = with_ids(SNAPSHOT, rows, "snapshot")
        write_table(self.folder / f"{name}.parquet", SNAPSHOT, rows)
        return rows

    @torch.no_grad()
    def _kl(self, outputs: list[str]) -> list[float]:
        """Log-probability of each output minus that under the start policy (k1), nats a sequence."""
        trainer, policy = self.trainer, self.trainer.policy
        device, temperature = trainer.args.device, trainer.args.temperature
        rows, starts = answered(policy.template, self.rows, outputs, policy.context, sampled=True)
        kl = [0.0] * len(rows)
        for group in token_batches([len(row) for row in rows], trainer.args.micro_batch_tokens):
            batch = batch_of([rows[i] for i in group], [starts[i] for i in group], policy.pad, device)
            ours = response_logprobs(policy.model, batch, temperature)[0]
            theirs = trainer.roles.reference_logprobs(batch, temperature)
            lengths = [len(rows[i]) - starts[i] for i in group]
            for i, tokens in zip(group, (ours - theirs).split(lengths), strict=True):
                kl[i] = tokens.sum().item()
        return kl


def collect_snapshots(folder: Path, path: Path | str) -> None:
    """Write the snapshots in a folder as one table; an empty one if there are none."""
    rows = [row for file in sorted(folder.glob("*.parquet")) for row in read_table(file, SNAPSHOT)]
    write_table(path, SNAPSHOT, rows)
