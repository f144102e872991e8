"""Supervised fine-tuning of the base model on the demonstrations.

    python -m tasks.sft

Reads data/prepared, models/pretrained; writes models/sft, metrics/sft.json, plots/sft.csv. With base.lora
models/sft is adapters on models/pretrained.
"""

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import os
from typing import Any

from rlhf.compute import deterministic
from rlhf.data.contracts import DEMONSTRATION
from rlhf.data.files import read_json, write_json
from rlhf.data.table import read_table
from rlhf.models.adapters import add_adapters
from rlhf.models.doctor import refuse_unsound
from rlhf.models.policy import Policy, load_policy, save_model
from rlhf.models.sampling import check_sampling, generate
from rlhf.training.curves import final_loss, write_curve
from rlhf.training.sft import sft, validation_loss
from tasks.runtime.stage import Stage, launch, run

CURVE = "curve.json"  # beside the checkpoints, unrounded
SHOWN_TOKENS = 48  # most tokens of the samples in MLflow, on which nothing depends


def main(stage: Stage) -> dict[str, float | None]:
    settings = stage.settings
    deterministic(settings.seed, settings.threads)
    demonstrations = read_table("data/prepared/demonstrations.parquet", DEMONSTRATION)
    if not demonstrations:
        return hand_on(stage)
    stage.log_dataset("data/prepared/demonstrations.parquet", demonstrations, "sft")

    base = load_policy("models/pretrained")
    refuse_unsound(base, demonstrations.where("split", "train"), "models/pretrained")
    check_sampling(base.model)  # refuse what cannot be sampled before hours of training
    before = validation_loss(base, demonstrations)
    launch(stage, train_policy, settings.sft.accelerate)
    policy = load_policy("models/sft")
    figures = {
        "loss": final_loss(read_json(stage.checkpoints / CURVE)),
        "validation_loss": validation_loss(policy, demonstrations),
        "validation_loss_before": before,
    }

    shown = demonstrations.where("split", "validation")[:16]
    outputs = sampled(policy, shown)
    stage.log_samples(
        [
            {"prompt": row["prompt"], "reference": row["completion"], "output": output}
            for row, output in zip(shown, outputs, strict=True)
        ],
        "samples",
    )
    write_json("metrics/sft.json", figures)
    return figures


def hand_on(stage: Stage) -> dict[str, float | None]:
    """Without demonstrations the base is the SFT policy: a reward model can be trained on it as well."""
    print("there are no demonstrations: the base model is handed on as it is")
    policy = load_policy("models/pretrained")
    if stage.settings.base.lora:
        policy.adapters = add_adapters(policy.model, stage.settings.base.lora)  # which add nothing yet
    save_model(policy, "models/sft")
    write_curve("plots/sft.csv", [])
    figures = dict.fromkeys(("loss", "validation_loss", "validation_loss_before"))
    write_json("metrics/sft.json", figures)
    return figures


def sampled(policy: Policy, rows: list[dict[str, Any]]) -> list[str]:
    """Answers to some rows, shorter than `SHOWN_TOKENS` where the context has no room behind a prompt."""
    longest = max(map(len, policy.template.prompts(rows)), default=1)
    room = max(1, policy.context - longest)
    return generate(policy, rows, temperature=0.7, max_new_tokens=min(SHOWN_TOKENS, room), seed=0)


def train_policy(stage: Stage) -> None:
    """Train in this process, one of `processes`; the first writes models/sft and plots/sft.csv."""
    settings = stage.settings
    deterministic(settings.seed, settings.threads)
    policy = load_policy("models/pretrained")
    if settings.base.lora:
        policy.adapters = add_adapters(policy.model, settings.base.lora)
    curve = sft(
        policy,
        read_table("data/prepared/demonstrations.parquet", DEMONSTRATION),
        checkpoints=stage.checkpoints,
        seed=settings.seed,
        curve=stage.log_curve,
        progress=stage.progress,
        gradient_checkpointing=getattr(settings.base, "gradient_checkpointing", False),
        **settings.sft.model_dump(exclude={"accelerate"}),
    )
    save_model(policy, "models/sft")
    if int(os.environ.get("RANK", "0")) == 0:
        write_curve("plots/sft.csv", curve)
        write_json(stage.checkpoints / CURVE, curve)


if __name__ == "__main__":
    run("sft", main, worker=train_policy)
