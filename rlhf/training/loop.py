"""The loop that all trainings share: from the last whole checkpoint, if there is one, to the curve.

Trainers are `transformers.Trainer` and its subclasses. A killed training that is run again with the same
checkpoint folder goes on from its last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from rlhf.compute import arithmetic, autocast, compute_in_float32, processes
from rlhf.data.errors import DataError
from rlhf.data.plural import plural
from rlhf.models.policy import Held
from rlhf.training.checkpoints import last_checkpoint, refuse_no_room
from rlhf.training.curves import Curve, CurveLog, logged_numbers
from rlhf.training.progress import Progress, ProgressEvents


def arguments(checkpoints: Path, *, seed: int, save_every: int, **more: Any) -> dict[str, Any]:
    """The training arguments that all trainings share, as keywords of `TrainingArguments`."""
    # Log at divisors of the save interval, so that the mean loss of a log never spans a resume.
    log_every = max(n for n in range(1, min(25, save_every) + 1) if save_every % n == 0)
    return {
        "output_dir": str(checkpoints),
        "seed": seed,
        "data_seed": seed,
        "save_strategy": "steps",
        "save_steps": save_every,
        "save_total_limit": 2,
        "logging_steps": log_every,
        "logging_nan_inf_filter": False,  # the filter would log a NaN loss as 0
        "report_to": "none",
        "adam_epsilon": 1e-5,
        "adam_beta2": 0.95,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "bf16": False,
        "include_num_input_tokens_seen": "no",
        # Without it, each of several CPU processes would train alone, and all would write the same files.
        "use_cpu": processes() > 1 and not torch.accelerator.is_available(),
        **more,
    }


class InPrecision:
    """Mixin of a `Trainer` that computes losses in an arithmetic of its own; weights and sums are in float32.

    Attributes:
        precision: see `rlhf.compute.arithmetic`.
    """

    precision: str = "auto"

    def arithmetic(self) -> Any:
        """The context of a forward pass."""
        trainer: Any = self
        device, width = trainer.accelerator.device, trainer.model.config.get_text_config().hidden_size
        return autocast(device, arithmetic(self.precision, device, width))


def learner(held: Held, precision: str = "auto") -> Any:
    """What a trainer gets of a model in hand: the adapted model, or the model with all weights in float32.

    Steps of a training are too small for bfloat16: most of them would be rounded away. What adapters sit on
    may be in bfloat16; with the precision `fp32` it computes in float32 nevertheless.
    """
    if held.adapters is not None:
        if precision == "fp32":
            compute_in_float32(held.model, everywhere=True)
        return held.adapters
    if held.settled.dtype != "float32" or held.model.dtype != torch.float32:
        held.model.float()
        held.settled = replace(held.settled, dtype="float32")
    return held.model


def learns_in_float32(trainer: Trainer) -> None:
    """Undo TRL's cast of the adapters on a model of 4 bits to bfloat16."""
    for p in trainer.model.parameters():
        if p.requires_grad:
            p.data = p.data.float()


def share_of(batch_size: int, name: str) -> int:
    """The part of a batch that each of the training processes takes.

    Raises:
        DataError: they cannot share it evenly; it calls the parameter by `name`.
    """
    if batch_size % processes():
        raise DataError(f"{name} {batch_size} is not divisible by {processes()} processes")
    return batch_size // processes()


def batch_within(batch_size: int, examples: int, name: str) -> int:
    """The batch size of a training: the one asked for, or all examples where it is more than there are.

    A larger batch would read examples again and again in one step, for as long as it is larger.

    Args:
        examples: how many there are; name: of the parameter, for the line that says so.

    Returns:
        what the training processes can share evenly.
    """
    most = max(1, examples // processes()) * processes()
    if batch_size <= most:
        return batch_size
    if int(os.environ.get("RANK", "0")) == 0:
        told = (
            f"{name} is {batch_size}, more than there are, {plural(examples, 'example')}: lower it to {most}"
        )
        print(f"{told}; a step reads each of them once now", flush=True)
    return most


def train(
    trainer: Trainer, curve: Curve | None = None, progress: Progress | None = None
) -> list[dict[str, float]]:
    """Train from the last whole checkpoint in the trainer's folder, or from the start.

    Args:
        curve: takes logged values while the training runs.
        progress: takes events while the training runs: how far it is.

    Returns:
        the curve: one row a log, with `step`; complete even if the training was resumed.

    Raises:
        DataError: the disk has no room for a checkpoint.
    """
    folder = Path(str(trainer.args.output_dir))
    last = last_checkpoint(folder)
    refuse_no_room(folder, trainer.model)
    if last:
        print(f"continuing from {last}", flush=True)
    trainer.add_callback(CurveLog(curve))
    if progress:
        trainer.add_callback(ProgressEvents(progress))
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    finally:
        if trainer.args.activation_checkpointing:
            trainer.model.activation_checkpointing_disable()
    return [
        logged_numbers(row) | {"step": row["step"]}
        for row in trainer.state.log_history
        if "train_runtime" not in row
    ]
