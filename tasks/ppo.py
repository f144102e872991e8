"""Proximal policy optimisation of the SFT policy against the reward model.

    python -m tasks.ppo

Reads data/prepared, models/sft, models/reward; writes models/ppo, metrics/ppo.json, plots/ppo.csv.
"""

import copy

from rlhf.contracts import PROMPT, read_table, write_json
from rlhf.policy import generate, load_policy, save_model
from rlhf.ppo import PPOConfig, PPOTrainer
from rlhf.reward import load_reward
from rlhf.training import arguments, deterministic, train, write_curve
from tasks.context import Stage, run


def main(stage: Stage) -> dict[str, float]:
    settings, params = stage.settings, stage.settings.ppo
    deterministic(settings.seed, settings.threads)
    prompts = read_table("data/prepared/prompts.parquet", PROMPT)
    stage.log_dataset("data/prepared/prompts.parquet", prompts, "ppo")

    policy = load_policy("models/sft")
    reward = load_reward("models/reward")
    shared = arguments(stage.checkpoints, seed=settings.seed, save_every=params.save_every)
    args = PPOConfig(
        **{k: v for k, v in shared.items() if k not in ("save_strategy", "save_steps", "logging_steps")},
        num_updates=params.updates,
        batch_size=params.batch_size,
        micro_batch_tokens=params.micro_batch_tokens,
        num_mini_batches=params.mini_batches,
        num_ppo_epochs=params.epochs,
        save_updates=params.save_every,
        learning_rate=params.learning_rate,
        lr_scheduler_type="linear",
        response_length=params.response_length,
        temperature=params.temperature,
        kl_coef=params.kl_coef,
        kl_estimator=params.kl_estimator,
        missing_eos=params.missing_eos,
        gamma=params.gamma,
        lam=params.lam,
        cliprange=params.clip,
        cliprange_value=params.value_clip,
        vf_coef=params.value_coef,
        max_grad_norm=params.max_grad_norm,
    )
    trainer = PPOTrainer(
        policy.model,
        reward,
        args,
        [row["prompt"] for row in prompts if row["split"] == "train"],
        policy.tokenizer,
        value=copy.deepcopy(reward.model),
    )
    curve = train(
        trainer,
        lambda values, _: stage.log_curve(values, int(values["update"])) if "update" in values else None,
    )
    curve = [{**row, "step": row["update"]} for row in curve if "update" in row]

    last = curve[-max(1, len(curve) // 10) :]
    figures = {
        name: sum(row[name] for row in last) / len(last)
        for name in (
            "objective/scores",
            "objective/kl",
            "objective/entropy",
            "val/response_length",
            "val/eos_share",
        )
    }
    shown = [row["prompt"] for row in prompts if row["split"] == "validation"][:16]
    outputs = generate(
        policy, shown, temperature=params.temperature, max_new_tokens=params.response_length, seed=0
    )
    stage.log_samples([{"prompt": p, "output": o} for p, o in zip(shown, outputs, strict=True)], "samples")
    save_model(policy.model, policy.tokenizer, "models/ppo")
    write_curve("plots/ppo.csv", curve)
    write_json("metrics/ppo.json", figures)
    return figures


if __name__ == "__main__":
    run("ppo", main)
