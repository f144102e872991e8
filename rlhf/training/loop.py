"""What the trainings share: determinism, checkpoints that can be trusted, curves.

Trainers are `transformers.Trainer` and its kin; a killed training run again with the same checkpoint folder
goes on from its last complete checkpoint and ends with the same weights.
"""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from rlhf.compute import processes
from rlhf.data.errors import DataError
from rlhf.data.files import written_beside

Curve = Callable[[dict[str, float], int], None]
_WRITING = ".writing"


def arguments(checkpoints: Path, *, seed: int, save_every: int, **more: Any) -> dict[str, Any]:
    """The training arguments that every training here shares."""
    # Logs at divisors of the save interval: the mean loss of a log then never spans a resume.
    log_every = max(n for n in range(1, min(25, save_every) + 1) if save_every % n == 0)
    return {
        "output_dir": str(checkpoints),
        "seed": seed,
        "data_seed": seed,
        "save_strategy": "steps",
        "save_steps": save_every,
        "save_total_limit": 2,
        "logging_steps": log_every,
        "logging_nan_inf_filter": False,  # it would log a loss that is no number as 0
        "report_to": "none",
        "adam_epsilon": 1e-5,
        "adam_beta2": 0.95,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "bf16": False,
        "include_num_input_tokens_seen": "no",
        # else each of several CPU processes would train alone, on the same files
        "use_cpu": processes() > 1 and not torch.accelerator.is_available(),
        **more,
    }


class FiniteTraining:
    """Mixin of a `Trainer` that stops where a loss, a gradient or a weight is not finite.

    It stops before the optimiser's step and before a checkpoint is written, so every checkpoint is finite.
    """

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """See `Trainer.training_step`.

        Raises:
            DataError: the loss is not finite.
        """
        loss: torch.Tensor = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self.check_finite("the loss", loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[misc]
        if getattr(cast(Any, self).accelerator, "scaler", None) is None:  # float16's skips such a step
            self.check_finite("the gradient's norm", norm)
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._broken_weight():
            self.check_finite("a weight", math.nan)
        super()._save_checkpoint(model, trial)  # type: ignore[misc]

    def check_finite(self, what: str, value: torch.Tensor | float) -> None:
        """Stop the training where `value` is not finite.

        Raises:
            DataError: with the step, the likely cause and the checkpoint to go back to.
        """
        if math.isfinite(float(value)):
            return
        trainer: Any = self
        step, broken = trainer.state.global_step, self._broken_weight()
        if broken and step == 0:
            cause = f"the weights that the training starts from are not finite ({broken})"
        elif broken:
            cause = f"an earlier step broke the weights ({broken}), so the learning rate is probably too high"
        else:
            cause = "the learning rate is probably too high, or a row has an extreme weight or score"
        back = last_checkpoint(Path(str(trainer.args.output_dir)))
        raise DataError(
            f"{what} is {float(value)} at step {step + 1}, learning rate {trainer._get_learning_rate():.3g}: "
            f"{cause}; "
            + (f"the checkpoint to go back to is {back}" if back else "there is no checkpoint to go back to")
        )

    def _broken_weight(self) -> str | None:
        """The name of a weight that is not finite."""
        for name, p in cast(Any, self).model.named_parameters():
            own = p.to_local() if hasattr(p, "to_local") else p  # this process's part of a sharded weight
            if not torch.isfinite(own.detach()).all():
                return name
        return None


class WholeCheckpoints(FiniteTraining):
    """Mixin of a `Trainer` whose checkpoints are written beside and renamed: one that is there is whole."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        trainer: Any = self
        folder = Path(trainer._get_output_dir(trial=trial))
        name, beside = f"checkpoint-{trainer.state.global_step}", folder / _WRITING
        trainer._get_output_dir = lambda trial: str(beside)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            del trainer._get_output_dir
        trainer.accelerator.wait_for_everyone()
        if trainer.args.should_save:
            shutil.rmtree(folder / name, ignore_errors=True)
            (beside / name).rename(folder / name)
            shutil.rmtree(beside)
            rotate_checkpoints(output_dir=str(folder), save_total_limit=trainer.args.save_total_limit)
        trainer.accelerator.wait_for_everyone()


class InCheckpoints(TrainerCallback):
    """A callback whose state is in every checkpoint, for a trainer whose `_save` asks for it."""

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint."""

    def load(self, folder: Path) -> None:
        """Take the state from a checkpoint."""


class InOrder(WholeCheckpoints):
    """Mixin of a `Trainer` that reads its examples in the order given by `order`, in one epoch.

    The library's length-grouped sampler draws from the global random state, which a resumed run has not
    advanced as the first one had: the order of its second epoch would be another one.
    """

    order: list[int]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.order


def reading_order(lengths: Sequence[int], *, batch_size: int, steps: int, seed: int) -> list[int]:
    """Indices for `steps` batches: random passes over the examples, those of like length in one batch.

    Like lengths are found within 50 batches, as in `transformers`' own sampler; batches come in random order.
    """
    order: list[int] = []
    generator = torch.Generator().manual_seed(seed)
    while len(order) < steps * batch_size:
        shuffled = torch.randperm(len(lengths), generator=generator).tolist()
        near = 50 * batch_size
        ranked = [
            i
            for start in range(0, len(shuffled), near)
            for i in sorted(shuffled[start : start + near], key=lambda i: lengths[i])
        ]
        batches = [ranked[start : start + batch_size] for start in range(0, len(ranked), batch_size)]
        whole = [batch for batch in batches if len(batch) == batch_size]
        rest = [i for batch in batches if len(batch) < batch_size for i in batch]
        order += [
            i for b in torch.randperm(len(whole), generator=generator).tolist() for i in whole[b]
        ] + rest
    return order[: steps * batch_size]


class _Log(TrainerCallback):
    """Hands logged values on, and has a training of fewer steps than one log interval log each of them."""

    def __init__(self, curve: Curve | None) -> None:
        self.curve = curve

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.max_steps < state.logging_steps:
            state.logging_steps = 1

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.curve and logs and state.is_world_process_zero:
            self.curve(_numbers(logs), state.global_step)


def train(trainer: Trainer, curve: Curve | None = None) -> list[dict[str, float]]:
    """Train from the last complete checkpoint in the trainer's folder, or from the start.

    Returns:
        the curve: one row a log, with `step`; complete also after a resume.
    """
    folder = Path(str(trainer.args.output_dir))
    last = last_checkpoint(folder)
    if last:
        print(f"continuing from {last}", flush=True)
    trainer.add_callback(_Log(curve))
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    return [
        _numbers(row) | {"step": row["step"]}
        for row in trainer.state.log_history
        if "train_runtime" not in row
    ]


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint; what a killed process left half-written is removed."""
    shutil.rmtree(folder / _WRITING, ignore_errors=True)
    found = folder.glob("checkpoint-*")
    return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)


def final_loss(curve: list[dict[str, float]]) -> float | None:
    """The last logged loss; None where none was logged."""
    return next((row["loss"] for row in reversed(curve) if "loss" in row), None)


def write_curve(path: Path | str, rows: list[dict[str, float]]) -> None:
    """Write a curve as CSV, `step` first."""
    columns = ["step", *sorted({key for row in rows for key in row} - {"step"})]
    with written_beside(path) as beside, beside.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)


def _numbers(logs: dict[str, Any]) -> dict[str, float]:
    # TRL's token counter starts anew after a resume.
    timing = ("runtime", "per_second", "total_flos", "epoch", "step", "num_tokens")
    return {
        k: float(v) for k, v in logs.items() if isinstance(v, int | float) and not any(t in k for t in timing)
    }
