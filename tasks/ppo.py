"""Proximal policy optimisation of the SFT policy against the reward model.

    python -m tasks.ppo

Reads data/prepared, data/reward-model, models/sft, models/reward, models/judge and data/gold (for simulated
experts); writes models/ppo, data/snapshots, metrics/ppo.json, plots/ppo.csv. The evaluation snapshots are
answers to validation prompts along the way, for `evaluate` to judge. If an early-stopping judge reads them
too (ppo.judge), the weights of the snapshot that it prefers are kept, and reward hacking stops the run. A
model that failed its controls (`tasks/reward.py`) is not asked.

If SFT trained adapters (base.lora), policy, reference, value network, reward model and judge are adapters on
models/pretrained, which is in memory once, and models/ppo is a folder of adapters.
"""

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import copy
import csv
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from rlhf.compute import deterministic
from rlhf.data.contracts import DEMONSTRATION, PROMPT
from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json, written_beside
from rlhf.data.table import read_table
from rlhf.models.doctor import refuse_unsound
from rlhf.models.policy import Policy, load_policy, save_model
from rlhf.models.reward_model import RewardModel, load_reward, load_reward_adapter
from rlhf.models.sampling import generate
from rlhf.models.template import Chat
from rlhf.rl import reward_functions
from rlhf.rl.early_stopping import EarlyStopping, ModelJudge, SnapshotJudge
from rlhf.rl.shards import gather
from rlhf.rl.snapshots import Snapshots, collect_snapshots
from rlhf.rl.trainer import PPOConfig, PPOTrainer, RewardAdapter
from rlhf.settings import Ppo
from rlhf.training.curves import write_curve
from rlhf.training.loop import arguments, train
from rlhf.world.panel import Panel
from tasks.runtime.errors import StageError
from tasks.runtime.preflight import OWN_REWARD, WITHOUT_DEMONSTRATIONS
from tasks.runtime.stage import Stage, launch, run

JUDGE = Path("models/judge/judge.json")
FINDINGS = Path("data/snapshots/held-out.json")  # of the early-stopping judge; null if none was asked


def main(stage: Stage) -> dict[str, float]:
    params = stage.settings.ppo
    prompts = read_table("data/prepared/prompts.parquet", PROMPT)
    stage.log_dataset("data/prepared/prompts.parquet", prompts, "ppo")
    if params.accelerate and stage.settings.processes > 1:
        refuse_deepspeed(params.accelerate)
    launch(stage, train_policy, params.accelerate)

    with Path("plots/ppo.csv").open() as handle:
        figures = final_figures(list(csv.DictReader(handle)))
    shown = prompts.where("split", "validation")[:16]
    outputs = generate(
        load_policy("models/ppo"),
        shown,
        temperature=params.temperature,
        max_new_tokens=params.response_length,
        seed=0,
    )
    stage.log_samples(
        [{"prompt": row["prompt"], "output": text} for row, text in zip(shown, outputs, strict=True)],
        "samples",
    )
    findings = read_json(FINDINGS)
    write_json("metrics/ppo.json", figures | {"held_out": findings})
    judge = read_json(JUDGE)
    asked = params.judge == "reward-model" and params.snapshot_every and params.judge_tolerance is not None
    if asked and judge["kind"] == "model" and not judge["trust"]["decides"]:
        stage.record["held_out"] = f"no judge stopped PPO or picked its weights: {judge['trust']['reason']}"
        print(stage.record["held_out"])
    if findings:
        stage.record["held_out"] = findings["words"]
        hacking = float(findings["hacking"]["found"])
        figures |= {"held_out/kept": findings["kept"], "held_out/hacking": hacking}
    return figures


def refuse_deepspeed(config: str) -> None:
    """PPO sums gradients itself, and DeepSpeed cannot be kept from summing them, too.

    Raises:
        DataError: the config file of accelerate asks for DeepSpeed.
    """
    with suppress(OSError):  # `launch` reports a file that is missing
        if (yaml.safe_load(Path(config).read_text()) or {}).get("distributed_type") == "DEEPSPEED":
            raise DataError(f"ppo.accelerate: {config} is for DeepSpeed, which PPO cannot use; FSDP it can")


def final_figures(curve: list[dict[str, str]]) -> dict[str, float]:
    """Means over the last tenth of the updates."""
    last = curve[-max(1, len(curve) // 10) :]
    figures = {
        name: sum(float(row[name]) for row in last) / len(last)
        for name in (
            "objective/scores",
            "objective/kl",
            "objective/entropy",
            "val/response_length",
            "val/eos_share",
        )
    }
    # The curve is the log-ratio of the sampled tokens. Near SFT it falls below 0 by chance; a KL never does.
    return figures | {"objective/kl": max(0.0, figures["objective/kl"])}


def train_policy(stage: Stage) -> None:
    """Train in this process, one of `processes`; the first writes models/ppo and plots/ppo.csv."""
    settings, params = stage.settings, stage.settings.ppo
    deterministic(settings.seed, settings.threads)
    prompts = read_table("data/prepared/prompts.parquet", PROMPT)
    demonstrations = read_table("data/prepared/demonstrations.parquet", DEMONSTRATION)
    asked = len(prompts.where("split", "train"))
    if params.batch_size > asked:
        print(
            f"ppo.batch_size is {params.batch_size}, more than the {asked} prompts of split train: an update "
            f"asks each of them {params.batch_size / max(1, asked):.1f} times",
            flush=True,
        )
    policy = load_policy("models/sft")
    if not demonstrations:
        raise StageError(WITHOUT_DEMONSTRATIONS)
    refuse_unsound(policy, demonstrations.where("split", "train"), "models/sft")
    trained = reward_at(Path("models/reward"), policy)
    own = params.reward_model == "given"  # a reward model that the user brought
    reward = load_reward(OWN_REWARD) if own else trained
    # The value network reads the policy's tokenizer, whichever one the user's reward model reads.
    value = trained if isinstance(trained, RewardAdapter) else copy.deepcopy(trained.model)
    functions, weights = rewards_of(params)
    trainer = PPOTrainer(
        policy.model if policy.adapters is None else policy.adapters,
        [reward, *functions],
        config_of(stage, weights),
        prompts.where("split", "train").rows(["prompt", "messages"]),
        policy.tokenizer,
        settled=policy.settled,
        value=value if params.value == "separate" else None,
        ptx_texts=ptx_of(policy, demonstrations) if params.ptx_coef else (),
    )
    tables = stage.checkpoints / "snapshots"
    snapshots: Snapshots | None = None
    if params.snapshot_every:
        by_prompt = {row["prompt"]: row for row in demonstrations.where("split", "validation")}
        rows = list(by_prompt.values())[: params.snapshot_prompts]
        shared = (trainer, reward, rows, tables, params.snapshot_every, params.best_of_n)
        if params.judge_tolerance is not None and (judge := judge_of(stage, trainer, policy)):
            snapshots = EarlyStopping(
                *shared, judge=judge, tolerance=params.judge_tolerance, curve=stage.log_curve
            )
        else:
            snapshots = Snapshots(*shared)
        trainer.add_callback(snapshots)

    def log(values: dict[str, float], _: int) -> None:
        if "update" in values and trainer.is_world_process_zero():
            stage.log_curve(values, int(values["update"]))

    curve = train(trainer, log, stage.progress)
    gather(trainer.networks)
    if trainer.is_world_process_zero():
        findings: dict[str, Any] | None = None
        if isinstance(snapshots, EarlyStopping):
            findings = snapshots.findings()
            snapshots.restore()
            print(findings["words"], flush=True)
        trained_policy = trainer.trained_policy()
        save_model(policy, "models/ppo", trained_policy if policy.adapters is None else None)
        with written_beside("data/snapshots") as folder:
            folder.mkdir()
            collect_snapshots(tables, folder / "snapshots.parquet")
            write_json(folder / FINDINGS.name, findings)
        write_curve("plots/ppo.csv", [{**row, "step": row["update"]} for row in curve if "update" in row])


def ptx_of(policy: Policy, demonstrations: Sequence[dict[str, Any]]) -> list[str | dict[str, Any]]:
    """What PPO-ptx trains on: the demonstrations of split `train`, plain ones as whole texts, as pretraining
    read them, and those that SFT read in turns as it read them."""
    in_turns = isinstance(policy.template, Chat) and policy.template.wrap
    return [
        row["prompt"] + row["completion"] if not (in_turns or row["messages"]) else row
        for row in demonstrations
        if row["split"] == "train"
    ]


def config_of(stage: Stage, reward_weights: list[float]) -> PPOConfig:
    """The trainer's settings from the stage's."""
    settings, params = stage.settings, stage.settings.ppo
    shared = arguments(stage.checkpoints, seed=settings.seed, save_every=params.save_every)
    same = (
        "batch_size micro_batch_tokens learning_rate response_length max_prompt_length stop_tokens "
        "temperature freeze_layers kl_coef kl_estimator kl_target kl_horizon early_stop_kl missing_eos "
        "missing_eos_rule whiten_rewards whiten_advantages gamma lam max_grad_norm ptx_coef ptx_batch_size "
        "precision"
    )
    return PPOConfig(
        **{k: v for k, v in shared.items() if k not in ("save_strategy", "save_steps", "logging_steps")},
        **{name: getattr(params, name) for name in same.split()},
        num_updates=params.updates,
        num_mini_batches=params.mini_batches,
        num_ppo_epochs=params.epochs,
        save_updates=params.save_every,
        lr_scheduler_type="linear",
        cliprange=params.clip,
        cliprange_value=params.value_clip,
        vf_coef=params.value_coef,
        value_warmup=params.value_warmup,
        activation_checkpointing=getattr(settings.base, "gradient_checkpointing", False),
        reward_weights=reward_weights,
    )


def reward_at(folder: Path, policy: Policy) -> RewardModel | RewardAdapter:
    """A reward model; only its adapters and head where the policy has adapters, too: on the same backbone."""
    return load_reward(folder) if policy.adapters is None else RewardAdapter(*load_reward_adapter(folder))


def judge_of(stage: Stage, trainer: PPOTrainer, policy: Policy) -> SnapshotJudge | None:
    """Who judges the snapshots while PPO runs, if anybody does."""
    if stage.settings.ppo.judge == "simulated":
        return Panel("data/gold/facts.parquet", stage.settings.seed)
    judge = read_json(JUDGE)
    if judge["kind"] != "model" or not judge["trust"]["decides"]:
        return None
    return ModelJudge(trainer.scorer(reward_at(JUDGE.parent, policy)))


def rewards_of(params: Ppo) -> tuple[list[Any], list[float]]:
    """The reward functions with a weight above 0, and the weights of all rewards, the model's first."""
    p = params.reward_functions
    weighted = [
        (p.length_weight, lambda: reward_functions.length(p.length_target)),
        (p.repetition_weight, reward_functions.repetition),
        (p.format_weight, lambda: reward_functions.format(p.format_pattern)),
        (p.banned_weight, lambda: reward_functions.banned_words(p.banned_words)),
    ]
    chosen = [(weight, function()) for weight, function in weighted if weight]
    return [function for _, function in chosen], [params.reward_weight, *(weight for weight, _ in chosen)]


if __name__ == "__main__":
    run("ppo", main, worker=train_policy)
