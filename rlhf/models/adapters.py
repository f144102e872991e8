"""LoRA adapters of a reward model: put on, merged, saved, loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from rlhf.models.reward_model import RewardModel


@dataclass
class Adapters:
    """LoRA adapters of a reward model, apart from the body that they are on.

    Attributes:
        config: their `peft` configuration; weights: their state dict.
    """

    config: Any
    weights: dict[str, torch.Tensor]


def add_lora(reward: RewardModel, rank: int) -> Any:
    """Let only LoRA adapters on the body (Hu et al. 2021) and the head learn; returns the peft model."""
    from peft import LoraConfig, get_peft_model

    body = reward.model.base_model
    linear = {name.split(".")[-1] for name, m in body.named_modules() if isinstance(m, torch.nn.Linear)}
    adapted = get_peft_model(
        reward.model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=sorted(linear))
    )
    reward.model.score.requires_grad_(True)
    return adapted


def merge_lora(reward: RewardModel, adapted: Any) -> Adapters:
    """Merge the adapters into the model's weights and return them."""
    from peft import get_peft_model_state_dict

    weights = {name: p.detach().clone() for name, p in get_peft_model_state_dict(adapted).items()}
    config = adapted.peft_config["default"]
    reward.model = adapted.merge_and_unload()
    return Adapters(config, weights)


def save_adapters(adapters: Adapters, folder: Path) -> None:
    """Write adapters as a peft folder."""
    folder.mkdir(parents=True)
    adapters.config.save_pretrained(folder)
    save_file(adapters.weights, folder / "adapter_model.safetensors")


def load_adapters(folder: Path) -> Adapters | None:
    """The adapters that `save_adapters` wrote; None if there are none."""
    if not folder.exists():
        return None
    from peft import PeftConfig

    return Adapters(PeftConfig.from_pretrained(str(folder)), load_file(folder / "adapter_model.safetensors"))
