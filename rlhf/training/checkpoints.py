"""Checkpoints that can be trusted: each is whole or left out, and every number in it is finite.

A checkpoint is written beside its place, flushed to the disk and renamed, so neither a killed process nor a
power cut leaves one half-written. It names its files with their hashes: one that a disk has damaged since is
left out, and the training goes on from the one before. A loss, a gradient or a weight that is not finite ends
the training before it could reach one.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from rlhf.compute import part_of
from rlhf.data.disk import faults_of, free_bytes, put_in_place, size_text
from rlhf.data.errors import DataError, Diverged
from rlhf.data.files import read_json
from rlhf.data.model_folder import file_hash

_WRITING = ".writing"  # the folder, inside that of the checkpoints, in which one is written
_WHOLE = "whole.json"  # in a checkpoint, written last: each file with its hash
_LEARNING = "learning.safetensors"  # in a checkpoint of adapters: they and the head


class FiniteTraining:
    """Mixin of a `Trainer` that stops at a loss, a gradient or a weight that is not finite.

    It stops before the optimiser's step and before a checkpoint is written, so every checkpoint is finite.
    """

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """See `Trainer.training_step`.

        Raises:
            Diverged: the loss is not finite.
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
        if self.broken_weight():
            self.check_finite("a weight", math.nan)
        super()._save_checkpoint(model, trial)  # type: ignore[misc]

    def check_finite(self, what: str, value: torch.Tensor | float) -> None:
        """Stop the training if `value` is not finite.

        Raises:
            Diverged: it names the step, the likely cause and the checkpoint to go back to.
        """
        if math.isfinite(float(value)):
            return
        trainer: Any = self
        step, broken = trainer.state.global_step, self.broken_weight()
        if broken and step == 0:
            cause = f"the weights that the training starts from are not finite ({broken})"
        elif broken:
            cause = f"an earlier step broke the weights ({broken}), so the learning rate is probably too high"
        else:
            cause = "the learning rate is probably too high, or a row has an extreme weight or score"
        back = last_checkpoint(Path(str(trainer.args.output_dir)))
        raise Diverged(
            f"{what} is {float(value)} at step {step + 1}, learning rate {trainer._get_learning_rate():.3g}: "
            f"{cause}; "
            + (f"the checkpoint to go back to is {back}" if back else "there is no checkpoint to go back to")
        )

    def broken_weight(self) -> str | None:
        """The name of a weight that is not finite; None if all are."""
        for name, p in cast(Any, self).model.named_parameters():
            own = p.to_local() if hasattr(p, "to_local") else p  # of a sharded weight, this process's part
            # Least and largest are NaN where a weight is, and take no copy of all weights.
            if own.numel() and not all(torch.isfinite(end) for end in own.detach().aminmax()):
                return name
        return None


class WholeCheckpoints(FiniteTraining):
    """Mixin of a `Trainer` that writes each checkpoint beside its place and renames it once it is whole."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        trainer: Any = self
        folder = Path(trainer._get_output_dir(trial=trial))
        name, beside = f"checkpoint-{trainer.state.global_step}", folder / _WRITING
        back = max(folder.glob("checkpoint-*"), key=_step, default=None)
        then = f"run again: the training goes on from {back}" if back else "run again"
        try:
            with faults_of(folder / name, beside, then):
                self._write_checkpoint(model, trial, beside)
                trainer.accelerator.wait_for_everyone()
                if trainer.args.should_save:
                    (beside / name / _WHOLE).write_text(json.dumps(_hashes(beside / name), indent=2))
                    shutil.rmtree(folder / name, ignore_errors=True)
                    put_in_place(beside / name, folder / name)
        finally:
            if trainer.args.should_save:
                shutil.rmtree(beside, ignore_errors=True)
        if trainer.args.should_save:
            rotate_checkpoints(output_dir=str(folder), save_total_limit=trainer.args.save_total_limit)
        trainer.accelerator.wait_for_everyone()

    def _write_checkpoint(self, model: Any, trial: Any, beside: Path) -> None:
        """Write it as the library does, but into another folder."""
        trainer: Any = self
        trainer._get_output_dir = lambda trial: str(beside)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            del trainer._get_output_dir


class LearningWeights(WholeCheckpoints):
    """Mixin of a `Trainer` whose checkpoints hold the weights that learn where some do not.

    Adapters and a head are a hundredth of the model that they are on, and `peft` alone would save the
    adapters and forget the head.
    """

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        learning = self._learning()
        if learning is None:
            super()._save(output_dir, state_dict)  # type: ignore[misc]
            return
        if not cast(Any, self).args.should_save:  # under FSDP only the first process has the whole weights
            return
        folder = Path(output_dir or str(cast(Any, self).args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        whole = learning if state_dict is None else {name: state_dict[name] for name in learning}
        save_file({name: p.detach().cpu().contiguous() for name, p in whole.items()}, folder / _LEARNING)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        learning = self._learning()
        if learning is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        file = Path(resume_from_checkpoint, _LEARNING)
        loaded = load_file(file) if file.exists() else {}
        if {name: p.shape for name, p in learning.items()} != {name: p.shape for name, p in loaded.items()}:
            raise DataError(f"{resume_from_checkpoint} is of another model than this one; remove it")
        with torch.no_grad():
            for name, p in learning.items():
                p.copy_(part_of(loaded[name].to(p.device), p))

    def _learning(self) -> dict[str, torch.nn.Parameter] | None:
        """The weights that learn, by name; None if all do."""
        weights = dict(cast(Any, self).model.named_parameters())
        learning = {name: p for name, p in weights.items() if p.requires_grad}
        return learning if len(learning) < len(weights) else None


class InCheckpoints(TrainerCallback):
    """A callback whose state is part of every checkpoint, for a trainer whose `_save` asks for it."""

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint."""

    def load(self, folder: Path) -> None:
        """Take the state back from a checkpoint."""


def refuse_no_room(folder: Path, model: torch.nn.Module) -> None:
    """Refuse to begin a training whose first checkpoint the disk could not hold.

    Args:
        folder: of its checkpoints.
        model: whose learning weights each of them holds, and as many numbers of the optimiser at least.

    Raises:
        DataError: so much is not free.
    """
    least = sum(2 * 4 * p.numel() for p in model.parameters() if p.requires_grad)
    if (free := free_bytes(folder)) < least:
        raise DataError(
            f"{folder}: a checkpoint of this training takes {size_text(least)} at least, and its disk has "
            f"{size_text(free)} free: make room there"
        )


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in a folder, None if there is none.

    What a killed process left half-written is removed, and so is a checkpoint that is damaged, which is said.
    """
    first = int(os.environ.get("RANK", "0")) == 0  # of several processes the others only look
    shutil.rmtree(folder / _WRITING, ignore_errors=True)
    damaged = []
    for path in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        why = _damage(path)
        if why is None:
            break
        damaged.append(f"{path}: damaged ({why}), so it is left out")
        if first:
            shutil.rmtree(path, ignore_errors=True)
    else:
        path = None
    if damaged and first:
        told = (
            f"the newest that is whole is {path.name}" if path else "none is whole, so training starts over"
        )
        print(f"{'; '.join(damaged)}; {told}", flush=True)
    return path


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _hashes(folder: Path) -> dict[str, str]:
    """The files of a checkpoint by their paths in it, each with the SHA-256 of its content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _WHOLE)
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}


def _damage(folder: Path) -> str | None:
    """What of a checkpoint is not as it was written; None where all is."""
    try:
        said = read_json(folder / _WHOLE)
        if not isinstance(said, dict):
            return f"{_WHOLE} names no files"
        for name, before in said.items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if file_hash(folder / name) != before:
                return f"{name} has other content than was written"
    except DataError:
        return f"{_WHOLE} is missing or cut off"
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    return None
