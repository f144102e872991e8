"""The work of the processes in test_processes.py, which import only what they need."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import save_file
from small_base import COMPARISONS, DEMONSTRATIONS
from tiny_ppo import PROMPTS, Stop, adapters, reward_adapter, tiny, trainer_of, updates, words_tokenizer
from torch.distributed.tensor import DTensor

from rlhf.compute import deterministic
from rlhf.data.files import write_json
from rlhf.models.adapters import put_on
from rlhf.models.policy import load_policy, save_model
from rlhf.models.reward_model import reward_from_policy
from rlhf.rl.shards import gather, sharded
from rlhf.rl.trainer import PPOTrainer
from rlhf.training import loop as training
from rlhf.training.checkpoints import InCheckpoints
from rlhf.training.reward import train_reward
from rlhf.training.sft import sft

CONFIGS = Path(__file__).parents[1] / "deploy/accelerate"
# Nine steps. In several processes TRL reads the accuracy of the last step off some of the examples only.
SETTINGS: dict[str, Any] = {"epochs": 1.4, "batch_size": 8, "learning_rate": 3e-3, "save_every": 4}


def environment_of(config: str) -> dict[str, str]:
    """The environment that `accelerate launch` makes of a file in deploy/accelerate."""
    options = ["--config_file", str(CONFIGS / config), "--num_processes", "2", "script.py"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(options))
    return prepare_multi_gpu_env(arguments)


def begin(rank: int, port: int, config: str) -> None:
    """Be one of two training processes."""
    os.environ |= environment_of(config) | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    gc.freeze()  # the objects of the libraries are not collected again and again
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def fine_tune(rank: int, port: int, config: str, start: str, folder: str, stop: int | None) -> None:
    """Run SFT; the first process writes its weights and its curve."""
    begin(rank, port, config)
    if stop is not None:
        real = training.CurveLog
        training.CurveLog = lambda curve: _stopping(real(curve), Stop(stop))  # type: ignore[assignment, misc]
    deterministic(0, 1)
    policy, logged = load_policy(start), []
    curve = sft(
        policy,
        DEMONSTRATIONS,
        checkpoints=Path(folder, "checkpoints"),
        seed=0,
        curve=lambda values, step: logged.append(step),
        **SETTINGS,
    )
    assert torch.distributed.get_world_size() == 2
    assert all(isinstance(p, DTensor) == (config == "fsdp.yaml") for p in policy.model.parameters())
    write_json(Path(folder, f"logged-{rank}.json"), logged)
    save_model(policy, Path(folder, "model"))
    if rank == 0:
        write_json(Path(folder, "curve.json"), curve)


def learn_rewards(rank: int, port: int, config: str, start: str, folder: str, stop: int | None) -> None:
    """Train a reward model from a policy's folder; the first process writes its weights and its curve."""
    begin(rank, port, config)
    if stop is not None:
        real = training.CurveLog
        training.CurveLog = lambda curve: _stopping(real(curve), Stop(stop))  # type: ignore[assignment, misc]
    deterministic(0, 1)
    reward, logged = reward_from_policy(start, seed=0), []
    curve = train_reward(
        reward,
        COMPARISONS,
        checkpoints=Path(folder, "checkpoints"),
        seed=0,
        curve=lambda values, step: logged.append(step),
        **SETTINGS,
    )
    assert torch.distributed.get_world_size() == 2
    learning = [p for p in reward.model.parameters() if p.requires_grad]
    assert all(isinstance(p, DTensor) == (config == "fsdp.yaml") for p in learning)
    write_json(Path(folder, f"logged-{rank}.json"), logged)
    save_model(reward, Path(folder, "model"))
    if rank == 0:
        write_json(Path(folder, "curve.json"), curve)


class Signature(InCheckpoints):
    """Leaves in a checkpoint which process wrote it."""

    def save(self, folder: Path) -> None:
        (folder / f"by-{os.environ['RANK']}").touch()


def policy_optimisation(rank: int, port: int, config: str, lora: bool, folder: str, stop: int | None) -> None:
    """Run PPO; the first process writes its weights and its curve."""
    begin(rank, port, config)
    callbacks = [Signature(), *([Stop(stop)] if stop else [])]
    trainer = small_ppo(Path(folder, "checkpoints"), lora, micro_batch_tokens=60, callbacks=callbacks)
    rows = updates(training.train(trainer))
    gather(trainer.networks)
    assert sharded(trainer.networks) == (config == "fsdp.yaml")
    if rank == 0:
        save_file(state(trainer), Path(folder, "model.safetensors"))
        write_json(Path(folder, "curve.json"), rows)


def small_ppo(folder: Path, lora: bool, **more: Any) -> PPOTrainer:
    """PPO with PPO-ptx texts, and mini-batches that two processes cannot halve.

    Args:
        lora: whether policy, value and reward are adapters on one backbone.
    """
    tokenizer, roles, reward = words_tokenizer(), {}, None
    if lora:
        reward = reward_adapter(tokenizer)
        roles = {"policy": put_on(tiny(tokenizer), adapters(tokenizer, 1)), "value": reward}
    settings = {
        "batch_size": 22,
        "kl_target": 1.0,
        "early_stop_kl": 10.0,
        "ptx_coef": 0.5,
        "ptx_batch_size": 6,
    }
    more = settings | more
    return trainer_of(tokenizer, folder, reward=reward, more={"ptx_texts": PROMPTS, **roles}, **more)


def state(trainer: PPOTrainer) -> dict[str, torch.Tensor]:
    """The weights of the networks."""
    return {name: p.detach().clone() for name, p in trainer.networks.named_parameters()}


def _stopping(bookkeeping: Any, stop: Stop) -> Any:
    bookkeeping.on_step_end = stop.on_step_end
    return bookkeeping
