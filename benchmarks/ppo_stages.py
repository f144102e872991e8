"""SFT, reward model and one PPO update at the size of a real model: seconds, tokens a second and peak memory.

    python -m benchmarks.ppo --size 0.6b-lora             # on this machine, no network, no TRL
    python -m benchmarks.ppo --size 1b-lora 1b-full --device cuda

The model has random weights and the exact shape and vocabulary of a real one. Each phase is a process of its
own, one after another, and calls the library as its stage in the pipeline does, on texts of random words that
all have the longest length. The last process, `logits`, has the model and the hidden states of one full
micro-batch, and measures what their logits take in memory: in parts, as all phases compute them, and whole.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, Qwen3Config
from transformers.utils import logging

from benchmarks.ppo_models import SIZES, config_of, tokenizer_of
from benchmarks.ppo_run import PHASES, peak_memory
from rlhf.compute import arithmetic, autocast, deterministic, this_device
from rlhf.models.adapters import add_adapters
from rlhf.models.logprobs import chosen_logprobs
from rlhf.models.policy import Policy, Settled, load_policy, save_model
from rlhf.models.reward_model import load_reward, load_reward_adapter, reward_from_policy, shift_to_references
from rlhf.rl.trainer import PPOConfig, PPOTrainer, RewardAdapter
from rlhf.settings import Lora
from rlhf.training.loop import train
from rlhf.training.reward import train_reward
from rlhf.training.sft import sft

# Sizes of `--size`: the model, and what learns.
SHAPES = ("tiny", "37.8m", "0.6b", "1b")
STAGED = {f"{size}-{what}": (size, what == "lora") for size in SHAPES for what in ("lora", "full")}
STEPS = 2  # optimiser steps of SFT and of the reward model
RANK = 16
# What a GPU does at once, in place of the defaults of `Spec`.
ON_GPUS = {"episodes": 64, "prompt": 256, "response": 128, "epochs": 4, "micro_batch_tokens": 16_384}


@dataclass(frozen=True)
class Spec:
    """What one process does.

    Attributes:
        phase: `base`, `sft`, `reward`, `ppo` or `logits`.
        folder: the models, with those of the phases before.
        size: of `ppo_models.SIZES`, or `0.6b`; lora: whether adapters learn, or all weights.
        episodes: of the update, and examples of a step; prompt, response: tokens; epochs: passes of PPO.
        micro_batch_tokens: see `PPOConfig`.
    """

    phase: str
    folder: str
    size: str = "tiny"
    lora: bool = True
    device: str = "cpu"
    seed: int = 1
    threads: int = 0
    episodes: int = 4
    prompt: int = 96
    response: int = 32
    epochs: int = 1
    micro_batch_tokens: int = 2048


def config(size: str) -> PretrainedConfig:
    """The shape of a model."""
    if size in SIZES:
        return config_of(size)
    return Qwen3Config(  # that of Qwen/Qwen3-0.6B
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )


def write_base(spec: Spec) -> dict[str, Any]:
    """Write the base model, in bfloat16."""
    torch.manual_seed(spec.seed)
    shape = config(spec.size)
    with torch.device(spec.device):
        model = AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16)
    policy = Policy(model, tokenizer_of(shape.vocab_size), settled=Settled(dtype="bfloat16"))
    save_model(policy, Path(spec.folder, "pretrained"))
    return {"parameters": model.num_parameters()}


def fine_tune(spec: Spec) -> dict[str, Any]:
    """SFT of the base."""
    folder = Path(spec.folder)
    policy = load_policy(folder / "pretrained", dtype=None if spec.lora else "float32")
    if spec.lora:
        policy.adapters = add_adapters(policy.model, Lora(rank=RANK))
    rows = [
        {"prompt": words(spec, spec.prompt), "messages": None, "completion": answer, "split": "train"}
        for answer in answers(spec, STEPS * spec.episodes)
    ]
    seconds = timed(
        spec,
        lambda: sft(
            policy,
            rows,
            checkpoints=folder / "sft-checkpoints",
            seed=spec.seed,
            epochs=1,
            batch_size=spec.episodes,
            learning_rate=1e-4,
            save_every=1000,
            gradient_checkpointing=True,
        ),
    )
    save_model(policy, folder / "sft")
    return {"seconds": seconds, "tokens": STEPS * spec.episodes * (spec.prompt + spec.response)}


def learn_reward(spec: Spec) -> dict[str, Any]:
    """The reward model, on pairs: half as many prompts a step as there are episodes."""
    folder, prompts = Path(spec.folder), max(1, spec.episodes // 2)
    reward = reward_from_policy(folder / "sft", spec.seed)
    texts = iter(answers(spec, 2 * STEPS * prompts))
    rows: list[dict[str, Any]] = [
        {
            "prompt": words(spec, spec.prompt),
            "messages": None,
            "completions": [next(texts), next(texts)],
            "ranking": [1, 2],
        }
        for _ in range(STEPS * prompts)
    ]
    seconds = timed(
        spec,
        lambda: train_reward(
            reward,
            rows,
            checkpoints=folder / "reward-checkpoints",
            seed=spec.seed,
            epochs=1,
            batch_size=prompts,
            learning_rate=1e-4,
            save_every=1000,
            gradient_checkpointing=True,
        ),
    )
    shift_to_references(reward, [row | {"completion": row["completions"][0]} for row in rows[:2]])
    save_model(reward, folder / "reward")
    # The two answers of a prompt are read behind one copy of it.
    return {"seconds": seconds, "tokens": STEPS * prompts * (spec.prompt + 2 * spec.response)}


def optimise(spec: Spec) -> dict[str, Any]:
    """One update of PPO: with LoRA all networks on one backbone, else each with weights of its own."""
    folder = Path(spec.folder)
    policy = load_policy(folder / "sft")
    reward: Any = (
        RewardAdapter(*load_reward_adapter(folder / "reward"))
        if spec.lora
        else load_reward(folder / "reward")
    )
    args = PPOConfig(
        str(folder / "ppo-checkpoints"),
        num_updates=1,
        batch_size=spec.episodes,
        num_ppo_epochs=spec.epochs,
        micro_batch_tokens=spec.micro_batch_tokens,
        response_length=spec.response,
        save_updates=10**6,
        activation_checkpointing=True,
        seed=spec.seed,
        report_to="none",
        disable_tqdm=True,
        use_cpu=spec.device == "cpu",
    )
    trainer = PPOTrainer(
        policy.adapters if spec.lora else policy.model,
        reward,
        args,
        [words(spec, spec.prompt) for _ in range(spec.episodes)],
        policy.tokenizer,
        value=reward if spec.lora else load_reward(folder / "reward").model,
        settled=policy.settled,
    )
    seconds = timed(spec, lambda: train(trainer))
    [row] = [row for row in trainer.state.log_history if "update" in row]
    episodes = spec.episodes * (spec.prompt + row["val/response_length"])
    tokens = {
        "generation": spec.episodes * row["val/response_length"],
        "scoring": episodes,
        "optimisation": episodes * spec.epochs,
    }
    trained = trainer.trained_policy()
    save_model(policy, folder / "ppo", None if spec.lora else trained)
    return {
        "seconds": seconds,
        "tokens": episodes,
        "episodes_per_s": spec.episodes / seconds,
        "phases": {name: {"seconds": trainer.phase_seconds[name], "tokens": tokens[name]} for name in PHASES},
        "kl_of_the_first_rollout": row["objective/kl"],
        "first_ratio_error": row["val/first_ratio_error"],
        "autocast": str(trainer.networks.dtype).removeprefix("torch."),
    }


def logits(spec: Spec) -> dict[str, Any]:
    """The loss of a full micro-batch, from hidden states on and back to them: first in parts, then whole."""
    policy = load_policy(Path(spec.folder, "sft"))
    model, tokens = policy.model, spec.micro_batch_tokens
    states = torch.randn(tokens, model.config.hidden_size, device=model.device, requires_grad=True)
    ids = torch.randint(2, model.config.vocab_size, (tokens,), device=model.device)
    dtype = arithmetic("auto", model.device, model.config.hidden_size)

    def parts() -> None:
        chosen_logprobs(model, states, ids, 0.7)[0].sum().backward()

    def whole() -> None:
        everything = (model.get_output_embeddings()(states).float() / 0.7).log_softmax(-1)
        everything.gather(-1, ids.unsqueeze(-1)).sum().backward()

    measured: dict[str, Any] = {}
    with autocast(model.device, dtype):
        for name, work in (("parts", parts), ("whole", whole)):
            seconds = timed(spec, work)
            measured[name] = {"seconds": seconds, "peak_memory": peak_memory(spec.device)}
    return {"tokens": tokens, "bytes_of_one_copy": 4 * tokens * model.config.vocab_size} | measured


PHASE: dict[str, Callable[[Spec], dict[str, Any]]] = {
    "base": write_base,
    "sft": fine_tune,
    "reward": learn_reward,
    "ppo": optimise,
    "logits": logits,
}


_RANDOM = random.Random(0)


def words(spec: Spec, tokens: int) -> str:
    """A text of so many tokens."""
    vocabulary = config(spec.size).vocab_size
    return " ".join(f"w{i}" for i in _RANDOM.choices(range(2, vocabulary), k=tokens))


def answers(spec: Spec, number: int) -> list[str]:
    """Answers that have `response` tokens with the one that ends them."""
    return [" " + words(spec, spec.response - 1) for _ in range(number)]


def timed(spec: Spec, work: Callable[[], Any]) -> float:
    """The seconds that some work takes."""
    if spec.device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if spec.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main(spec_file: str, result_file: str) -> None:
    """Do the phase of the spec in one file and write what was measured to the other."""
    spec = Spec(**json.loads(Path(spec_file).read_text()))
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    deterministic(spec.seed, spec.threads or torch.get_num_threads())
    result = PHASE[spec.phase](spec)
    result |= {"peak_memory": peak_memory(spec.device), "device": str(this_device())}
    Path(result_file).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
