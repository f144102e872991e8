"""Looks at held-out prompts along PPO: what the policy writes, what the reward model gives, how far it went.

Every few updates the policy answers the same held-out prompts. The looks are a table that a judge reads
afterwards (`rlhf.measures.evaluation.judge_snapshots`): a preference that falls while the reward model's
score rises is reward hacking. Best-of-n of the start policy stands beside them: the other way to a
higher score (Gao et al. 2022). Nothing here judges; `rlhf.rl.early_stopping` does where there is a held-out
judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from transformers import TrainerCallback

from rlhf.data.contracts import Contract, with_ids
from rlhf.data.table import read_table, write_table
from rlhf.measures.overoptimisation import best_of_n_kl
from rlhf.models.batches import batch_of, token_batches
from rlhf.models.logprobs import response_logprobs
from rlhf.models.policy import Policy, context_length
from rlhf.models.reward_model import RewardModel, score
from rlhf.models.sampling import generate
from rlhf.models.template import answered_ids_and_starts

if TYPE_CHECKING:
    from rlhf.rl.trainer import PPOTrainer

_TEXT = pa.string()
SNAPSHOT = Contract(
    "snapshot row",
    pa.schema(
        [
            ("update", pa.int64()),  # 0: before the first
            ("n", pa.int64()),  # the output is the best of n samples by its score; 1 along PPO
            ("prompt", _TEXT),
            ("reference", _TEXT),
            ("output", _TEXT),
            ("score", pa.float64()),  # of the reward model
            (
                "kl",
                pa.float64(),
            ),  # log-probability of the output minus the start's, nats; n > 1: best_of_n_kl
            ("source", _TEXT),
            ("id", _TEXT),
        ]
    ),
    ("update", "n", "prompt", "output"),
    ("update", "n", "prompt", "reference", "output"),
)


class Snapshots(TrainerCallback):
    """Writes one table a look into a folder; a resumed run keeps those of before.

    Args:
        trainer: whose policy is looked at.
        reward: the reward model that it is trained on.
        demonstrations: held-out prompts with their references, rows of the contract DEMONSTRATION.
        folder: of the tables, beside the checkpoints.
        every: updates between looks; the start and the last update are looked at too.
        best_of: largest n of the best-of-n looks at the start, which double n each time.
    """

    def __init__(
        self,
        trainer: PPOTrainer,
        reward: RewardModel,
        demonstrations: Sequence[Mapping[str, Any]],
        folder: Path,
        every: int,
        best_of: int = 1,
    ) -> None:
        self.trainer, self.reward, self.rows = trainer, reward, demonstrations
        self.folder, self.every, self.best_of = folder, every, best_of

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The policy as it starts."""
        if state.global_step == 0:
            self.trainer.gather()
            if state.is_world_process_zero:
                self.look_at_best_of_n(self.look(0))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The policy after an update; called before its checkpoint is written, so none is ever missing."""
        if self.due(args, state):
            self.trainer.gather()
            if state.is_world_process_zero:
                self.look(state.global_step // args.steps_per_update)

    def due(self, args: Any, state: Any) -> bool:
        """Whether an update has just ended after which there is a look."""
        update, inside = divmod(state.global_step, args.steps_per_update)
        return inside == 0 and (update % self.every == 0 or update == args.num_updates)

    def look(self, update: int) -> list[dict[str, Any]]:
        """Write the table of the policy as it is now, and return its rows."""
        prompts = [row["prompt"] for row in self.rows]
        outputs = self._sample(prompts, self.trainer.args.seed)
        scores, kl = self._scores(prompts, outputs, update), self._kl(prompts, outputs)
        self.trainer.check_finite("the KL to the start", sum(kl))
        found = zip(outputs, scores, kl, strict=True)
        return self._write(f"{update:07d}", update, 1, list(found))

    def look_at_best_of_n(self, first: Sequence[Mapping[str, Any]]) -> None:
        """Write the tables of best-of-n by the reward, n = 2, 4, 8 ..., of the policy as it is now.

        Args:
            first: one sample of each prompt, as `look` gives them.
        """
        more = self.best_of - 1
        if not more:
            return
        prompts = [row["prompt"] for row in self.rows for _ in range(more)]
        outputs = self._sample(prompts, self.trainer.args.seed + 1)
        scores = self._scores(prompts, outputs, 0)
        samples = [
            [
                (row["score"], row["output"]),
                *zip(scores[at : at + more], outputs[at : at + more], strict=True),
            ]
            for row, at in zip(first, range(0, len(prompts), more), strict=True)
        ]
        n = 2
        while n <= self.best_of:
            best = [max(of[:n], key=lambda pair: pair[0]) for of in samples]  # of equals the first
            self._write(f"best-of-{n:04d}", 0, n, [(text, value, best_of_n_kl(n)) for value, text in best])
            n *= 2

    def _scores(self, prompts: list[str], outputs: list[str], update: int) -> list[float]:
        scores = score(self.reward, prompts, outputs)
        for value, prompt, output in zip(scores, prompts, outputs, strict=True):
            self.trainer.check_score(value, "model", prompt, output, update)
        return scores

    def _sample(self, prompts: list[str], seed: int) -> list[str]:
        args = self.trainer.args
        policy = Policy(self.trainer.networks.policy, self.trainer.processing_class)
        return generate(
            policy, prompts, temperature=args.temperature, max_new_tokens=args.response_length, seed=seed
        )

    def _write(
        self, name: str, update: int, n: int, found: list[tuple[str, float, float]]
    ) -> list[dict[str, Any]]:
        """Write a table of one (output, score, KL) a prompt."""
        rows = [
            {
                "update": update,
                "n": n,
                "prompt": row["prompt"],
                "reference": row["completion"],
                "output": output,
                "score": value,
                "kl": kl,
                "source": row["source"],
            }
            for row, (output, value, kl) in zip(self.rows, found, strict=True)
        ]
        rows = with_ids(SNAPSHOT, rows, "snapshot")
        write_table(self.folder / f"{name}.parquet", SNAPSHOT, rows)
        return rows

    @torch.no_grad()
    def _kl(self, prompts: list[str], outputs: list[str]) -> list[float]:
        """Log-probability of each output minus the one it had at the start (k1), nats a sequence."""
        trainer, tokenizer = self.trainer, self.trainer.processing_class
        device, temperature = trainer.args.device, trainer.args.temperature
        longest = context_length(trainer.networks.policy)
        rows, starts = answered_ids_and_starts(tokenizer, prompts, outputs, longest)
        found = [0.0] * len(rows)
        for group in token_batches([len(row) for row in rows], trainer.args.micro_batch_tokens):
            batch = batch_of(
                [rows[i] for i in group], [starts[i] for i in group], tokenizer.pad_token_id, device
            )
            ours = response_logprobs(trainer.networks.policy, batch, temperature)[0]
            with nullcontext() if trainer.adapter is None else trainer.adapter.disable_adapter():
                theirs = response_logprobs(trainer.reference, batch, temperature)[0]
            lengths = [len(rows[i]) - starts[i] for i in group]
            for i, tokens in zip(group, (ours - theirs).split(lengths), strict=True):
                found[i] = tokens.sum().item()
        return found


def collect_snapshots(folder: Path, path: Path | str) -> None:
    """The looks in a folder as one table; an empty one where there are none."""
    rows = [row for file in sorted(folder.glob("*.parquet")) for row in read_table(file, SNAPSHOT)]
    write_table(path, SNAPSHOT, rows)
