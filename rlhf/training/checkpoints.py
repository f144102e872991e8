"""Checkpoints that can be trusted: each is whole or absent, and every number in it is finite.

A checkpoint is written beside its place and renamed, so a killed process leaves none half-written. A loss, a
gradient or a weight that is not finite ends the training before it could reach one.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from rlhf.data.errors import DataError

_WRITING = ".writing"  # the folder, inside that of the checkpoints, in which one is written


class FiniteTraining:
    """Mixin of a `Trainer` that stops at a loss, a gradient or a weight that is not finite.

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
        if getattr(cast(Any, self).accelerator, "scaler", None) is None:  # float16 skips such steps
            self.check_finite("the gradient's norm", norm)
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._broken_weight():
            self.check_finite("a weight", math.nan)
        super()._save_checkpoint(model, trial)  # type: ignore[misc]

    def check_finite(self, what: str, value: torch.Tensor | float) -> None:
        """Stop the training if `value` is not finite.

        Raises:
            DataError: it names the step, the likely cause and the checkpoint to go back to.
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
        """The name of a weight that is not finite; None if all are."""
        for name, p in cast(Any, self).model.named_parameters():
            own = p.to_local() if hasattr(p, "to_local") else p  # of a sharded weight, this process's part
            if not torch.isfinite(own.detach()).all():
                return name
        return None


class WholeCheckpoints(FiniteTraining):
    """Mixin of a `Trainer` that writes each checkpoint beside its place and renames it once it is whole."""

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
    """A callback whose state is part of every checkpoint, for a trainer whose `_save` asks for it."""

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint."""

    def load(self, folder: Path) -> None:
        """Take the state back from a checkpoint."""


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint in a folder, None if there is none.

    What a killed process left half-written is removed.
    """
    shutil.rmtree(folder / _WRITING, ignore_errors=True)
    checkpoints = folder.glob("checkpoint-*")
    return max(checkpoints, key=lambda path: int(path.name.split("-")[1]), default=None)
