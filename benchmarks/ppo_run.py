"""One measured run of a PPO trainer in a process of its own; `benchmarks.ppo` starts it.

    python -m benchmarks.ppo_run SPEC.json RESULT.json

`who` in the spec is `trl` (TRL 1.12, which must come first on PYTHONPATH), `ours`, or `gemm` (the rate of
plain matrix products, the yardstick). The first update warms up and is not counted.
"""

from __future__ import annotations

if __name__ == "__main__":  # before a library is loaded
    from tasks.runtime.process import settle

    settle()

import copy
import json
import resource
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from transformers.utils import logging

from benchmarks.ppo_models import TEMPERATURE, arithmetic
from rlhf.data.errors import DataError

PHASES = ("generation", "scoring", "optimisation")


@dataclass(frozen=True)
class Spec:
    """What to run.

    Attributes:
        who: `trl`, `ours` or `gemm`; variant: of ours, `separate-critic` or `shared-lora`.
        models: folder with `policy/` and `reward/`; prompts: file with a JSON list of texts.
        updates: timed updates after the one that warms up; batch: episodes an update.
        response: longest response in tokens; threads: 0 leaves torch's default.
        trl_micro_batch, trl_rollout_batch: TRL's `per_device_train_batch_size` (the rest of the batch is
            gradient accumulation) and `local_rollout_forward_batch_size`.
        options: further fields of our `PPOConfig`.
    """

    who: str
    models: str = ""
    prompts: str = ""
    size: str = "tiny"
    variant: str = "separate-critic"
    device: str = "cpu"
    seed: int = 1
    updates: int = 2
    batch: int = 64
    response: int = 48
    epochs: int = 4
    threads: int = 0
    trl_micro_batch: int = 64
    trl_rollout_batch: int = 64
    options: dict[str, Any] = field(default_factory=dict)


class Clock(TrainerCallback):
    """Seconds of the updates after the first, by phase.

    Args:
        steps_per_update: `on_step_end` calls an update.
        synchronize: waits for the device, so that its work is counted where it was asked for.
    """

    def __init__(self, steps_per_update: int, synchronize: Any) -> None:
        self.steps_per_update, self.synchronize = steps_per_update, synchronize
        self.phases = dict.fromkeys((*PHASES, "other"), 0.0)
        self.updates: list[float] = []
        self.phase, self.since, self.began = "other", 0.0, 0.0
        self.processor = self.warm_processor = (
            0.0  # this process's processor seconds, at the end and the start
        )
        self.on_warm: Any = None

    def now(self) -> float:
        self.synchronize()
        return time.perf_counter()

    def enter(self, phase: str) -> None:
        """The phase that ran until now ends and `phase` begins."""
        now = self.now()
        self.phases[self.phase] += now - self.since
        self.phase, self.since = phase, now

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.steps_per_update:
            return
        self.enter("other")
        self.processor = time.process_time()
        if self.began:
            self.updates.append(self.since - self.began)
        else:  # the first update has warmed up: everything counts from here
            self.phases = dict.fromkeys(self.phases, 0.0)
            self.warm_processor = self.processor
            if self.on_warm:
                self.on_warm()
        self.began = self.since


def run_trl(spec: Spec) -> dict[str, Any]:
    """TRL 1.12's `PPOTrainer`: policy, reference, value and reward model, each whole."""
    import trl

    if not trl.__version__.startswith("1.12."):
        raise DataError(f"this is TRL {trl.__version__}; the baseline is TRL 1.12: put its folder in --trl")
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    tokenizer, policy, reward = _load(spec)
    rows = tokenizer(_prompts(spec), add_special_tokens=False)["input_ids"]
    roles = (policy, copy.deepcopy(policy), copy.deepcopy(reward), reward)
    held = _memory_held(spec)
    clock = Clock(1, _synchronizer(spec))  # TRL counts an update as one step
    lengths: list[float] = []
    generation = ppo_trainer.batch_generation

    def timed_generation(*args: Any, **kwargs: Any) -> Any:
        clock.enter("generation")
        out = generation(*args, **kwargs)
        clock.enter("scoring")
        responses = out[0][:, args[1].shape[1] :]
        lengths.append(((responses != tokenizer.pad_token_id).sum(1)).float().mean().item())
        return out

    ppo_trainer.batch_generation = timed_generation
    trainer = PPOTrainer(
        PPOConfig(
            **_shared(spec),
            per_device_train_batch_size=spec.trl_micro_batch,
            gradient_accumulation_steps=spec.batch // spec.trl_micro_batch,
            local_rollout_forward_batch_size=spec.trl_rollout_batch,
            total_episodes=spec.batch * (1 + spec.updates),
            num_sample_generations=0,
            stop_token="eos",
            missing_eos_penalty=1.0,
            save_strategy="no",
        ),
        tokenizer,
        model=roles[0],
        ref_model=roles[1],
        value_model=roles[2],
        reward_model=roles[3],
        train_dataset=Dataset.from_dict({"input_ids": rows}),
        callbacks=[clock],
    )
    accumulate = trainer.accelerator.accumulate

    @contextmanager
    def timed_accumulate(*models: Any) -> Any:
        if clock.phase != "optimisation":
            clock.enter("optimisation")
        with accumulate(*models):
            yield

    trainer.accelerator.accumulate = timed_accumulate
    trainer.train()
    settings = {"version": trl.__version__, "micro_batch": spec.trl_micro_batch}
    settings |= {"rollout_batch": spec.trl_rollout_batch, "dtype": _name(policy.dtype)}
    return _figures(spec, clock, held, lengths[1:], settings)


def run_ours(spec: Spec) -> dict[str, Any]:
    """`rlhf.rl.trainer.PPOTrainer`, called as the stage `ppo` calls it."""
    from rlhf.compute import deterministic
    from rlhf.rl.trainer import PPOConfig, PPOTrainer

    deterministic(spec.seed, torch.get_num_threads())
    tokenizer, policy, reward = _load(spec)
    if spec.variant == "shared-lora":  # the policy's body is reference and critic too
        from peft import LoraConfig

        lora = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"])
        roles: dict[str, Any] = {"peft_config": lora}
        reward = _reward_adapter(reward, lora)
    else:
        roles = {"reference": copy.deepcopy(policy), "value": copy.deepcopy(reward)}
    held = _memory_held(spec)
    args = PPOConfig(
        **_shared(spec),
        num_updates=1 + spec.updates,
        batch_size=spec.batch,
        save_updates=10**6,
        **spec.options,
    )
    clock = Clock(args.steps_per_update, _synchronizer(spec))
    trainer = PPOTrainer(policy, reward, args, _prompts(spec), tokenizer, **roles, callbacks=[clock])
    at_warm: dict[str, float] = {}
    clock.on_warm = lambda: at_warm.update(trainer.phase_seconds)
    trainer.train()
    for phase in PHASES:
        clock.phases[phase] = trainer.phase_seconds[phase] - at_warm[phase]
    clock.phases["other"] = sum(clock.updates) - sum(clock.phases[phase] for phase in PHASES)
    lengths = [
        row["val/response_length"] for row in trainer.state.log_history if "val/response_length" in row
    ]
    settings = {"dtype": _name(policy.dtype), "autocast": _name(trainer.networks.dtype)} | spec.options
    return _figures(spec, clock, held, lengths[1:], settings)


def _reward_adapter(reward: Any, config: Any) -> Any:
    """A reward model of the shared backbone: new adapters, and the head of `reward`."""
    from peft import get_peft_model, get_peft_model_state_dict

    from rlhf.models.adapters import Adapters
    from rlhf.rl.trainer import RewardAdapter

    head = reward.score.weight.detach().clone()
    weights = get_peft_model_state_dict(get_peft_model(reward, config))
    return RewardAdapter(Adapters(config, weights), head)


def run_gemm(spec: Spec) -> dict[str, float]:
    """The best rate of square matrix products, in operations a second, by type."""
    synchronize = _synchronizer(spec)
    best = {}
    for name in ("float32", "bfloat16"):
        rates = []
        sizes = (1024, 2048) if spec.device == "cpu" else (4096, 8192)
        if name == "bfloat16" and spec.device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            sizes = (128, 256)  # a larger product takes minutes here
        for n in sizes:
            a, b = (torch.randn(n, n, device=spec.device).to(getattr(torch, name)) for _ in range(2))
            for _ in range(3):
                a @ b
            synchronize()
            began, products = time.perf_counter(), 0
            while time.perf_counter() - began < 0.5:
                for _ in range(4):
                    a @ b
                synchronize()
                products += 4
            rates.append(2 * n**3 * products / (time.perf_counter() - began))
        best[name] = max(rates)
    return best


def _shared(spec: Spec) -> dict[str, Any]:
    """Settings that mean the same to both trainers."""
    return {
        "output_dir": str(Path(spec.prompts).parent / "checkpoints"),
        "seed": spec.seed,
        "num_ppo_epochs": spec.epochs,
        "num_mini_batches": 1,
        "response_length": spec.response,
        "temperature": TEMPERATURE,
        "learning_rate": 3e-6,
        "adam_epsilon": 1e-5,
        "kl_coef": 0.05,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": spec.device == "cpu",
        "bf16": False,
    }


def _prompts(spec: Spec) -> list[str]:
    return json.loads(Path(spec.prompts).read_text())


def _load(spec: Spec) -> tuple[Any, Any, Any]:
    folder = Path(spec.models)
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    policy: Any = AutoModelForCausalLM.from_pretrained(folder / "policy", use_safetensors=True)
    reward: Any = AutoModelForSequenceClassification.from_pretrained(folder / "reward", use_safetensors=True)
    return tokenizer, policy.to(spec.device), reward.to(spec.device)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _synchronizer(spec: Spec) -> Any:
    return torch.cuda.synchronize if spec.device == "cuda" else lambda: None


def _memory_held(spec: Spec) -> int:
    """Bytes in use now: of the device, or of this process."""
    if spec.device == "cuda":
        return torch.cuda.memory_allocated()
    return psutil.Process().memory_info().rss


def peak_memory(device: str) -> int:
    """Most bytes ever in use: of the device, or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the parent's memory from before exec
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _figures(
    spec: Spec, clock: Clock, held: int, lengths: list[float], settings: dict[str, Any]
) -> dict[str, Any]:
    seconds, episodes = sum(clock.updates), spec.batch * len(clock.updates)
    length = sum(lengths) / len(lengths)
    # A word is a token.
    prompts = [len(text.split()) for text in _prompts(spec)]
    counts = arithmetic(spec.size)
    work = sum(counts.of_episode(prompt, length, spec.epochs) for prompt in prompts) / len(prompts)
    peak = peak_memory(spec.device)
    return {
        "episodes_per_s": episodes / seconds,
        "episodes": episodes,
        "seconds": seconds,
        # Far below seconds times threads: something else had the cores; such figures are not to be trusted.
        "processor_seconds": clock.processor - clock.warm_processor,
        "seconds_by_update": clock.updates,
        "seconds_by_phase": clock.phases,
        "peak_memory": peak,
        # The least of models ask for no more than loading them did.
        "peak_memory_above_models": max(0, peak - held),
        "mean_response_length": length,
        "operations_per_s": work * episodes / seconds,
        "settings": settings,
    }


def main(spec_file: str, result_file: str) -> None:
    """Run the spec in one file and write what was measured to the other."""
    spec = Spec(**json.loads(Path(spec_file).read_text()))
    if spec.threads:
        torch.set_num_threads(spec.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    result = {"trl": run_trl, "ours": run_ours, "gemm": run_gemm}[spec.who](spec)
    result["threads"] = torch.get_num_threads()
    Path(result_file).write_text(json.dumps(result))


def write_spec(spec: Spec, path: Path) -> None:
    """Write a spec for `main`."""
    path.write_text(json.dumps(asdict(spec)))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except DataError as error:
        sys.exit(f"error: {error}")
