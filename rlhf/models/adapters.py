"""LoRA adapters (Hu et al. 2021): put on a model, taken off it, saved without it, merged into it.

What they sit on stays as it is. The adapters are in float32 whatever the model's type is, because the steps
of a training are smaller than the distance between neighbouring numbers of bfloat16. `peft` computes; the
names of the weights and the files are its own, so that other programs can load a folder of adapters.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from rlhf.data.errors import DataError
from rlhf.data.files import write_json
from rlhf.data.model_folder import ADAPTERS

CONFIG, STORED = ADAPTERS, "adapter_model.safetensors"
HEAD = "base_model.model.score.weight"  # a reward model's head, among the weights of its adapters
DEFAULT = "default"  # the adapters of the model itself, where others are on the same body


class Lora(Protocol):
    """Settings of adapters, such as `rlhf.settings.Lora`: alpha is twice the rank where it is None."""

    @property
    def rank(self) -> int: ...
    @property
    def alpha(self) -> float | None: ...
    @property
    def dropout(self) -> float: ...
    @property
    def targets(self) -> Any: ...  # "auto" for all linear layers of the body, or names of layers


@dataclass
class Adapters:
    """LoRA adapters apart from the body that they are on.

    Attributes:
        config: their `peft` configuration.
        weights: name in a file of `peft` -> the weight.
    """

    config: Any
    weights: dict[str, torch.Tensor]


def add_adapters(model: Any, lora: Lora, *, head: bool = False) -> Any:
    """Put fresh adapters on a model: they alone learn, and it computes as before until they do.

    Args:
        model: a causal language model or a one-label sequence classification, without adapters.
        lora: rank, alpha, dropout, targets.
        head: whether the whole head `score` learns, too, in float32.

    Returns:
        the `PeftModel`; `model` itself has the layers in it and is used as before.

    Raises:
        DataError: no layer of the body has a name that `lora.targets` asks for.
    """
    from peft import LoraConfig

    layers = layers_to_adapt(model, lora.targets)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=2 * lora.rank if lora.alpha is None else lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=sorted(
            {name.rsplit(".", 1)[-1] for name in layers} if lora.targets == "auto" else set(lora.targets)
        ),
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in layers.values()),
    )
    adapted = _adapted(model, config)
    if head:
        whole_head(model)
    return adapted


def linear_layers(model: Any) -> dict[str, Any]:
    """The linear layers of a model's body, by name; the head is none of them."""
    return {
        name: layer
        for name, layer in model.base_model.named_modules()
        if isinstance(layer, nn.Linear | Conv1D)
    }


def layers_to_adapt(model: Any, targets: Any) -> dict[str, Any]:
    """The linear layers of a model's body that get an adapter, by name.

    Args:
        targets: "auto" for all of them, or names or ends of names.

    Raises:
        DataError: no layer of the body has a name that `targets` asks for.
    """
    linear = linear_layers(model)
    if targets == "auto":
        return linear
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear}))
            raise DataError(
                f"base.lora.targets: no linear layer {target!r} to adapt; {type(model).__name__} has {known}"
                "; name some of these, or set it to auto"
            )
    return {
        name: layer
        for name, layer in linear.items()
        if any(f".{name}".endswith(f".{target}") for target in targets)
    }


def put_on(model: Any, adapters: Adapters) -> Any:
    """Put adapters on a model that has none, as `add_adapters` does; returns the `PeftModel`.

    Raises:
        DataError: they are of a model with other layers.
    """
    adapted = _adapted(model, adapters.config)
    _fill(adapted, DEFAULT, adapters)
    return adapted


def put_adapters(adapted: Any, name: str, adapters: Adapters) -> None:
    """Put more adapters on an adapted model, under a name of their own: switched off, and not learning.

    What learns stays what learns: `peft` itself would have all weights of the active adapters learn.

    Raises:
        DataError: they are of a model with other layers.
    """
    learning = {parameter for parameter in adapted.parameters() if parameter.requires_grad}
    adapted.add_adapter(name, copy.deepcopy(adapters.config))
    _fill(adapted, name, adapters)
    for parameter in adapted.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(parameter in learning)


def adapters_of(adapted: Any, name: str = DEFAULT, weights: Mapping[str, Any] | None = None) -> Adapters:
    """A copy of the adapters of that name.

    Args:
        weights: the state dict of `adapted`, where several processes share the model.
    """
    own = _weights(dict(adapted.named_parameters()) if weights is None else weights, name)
    copied = {key: p.detach().clone() for key, p in own.items()}
    return Adapters(copy.deepcopy(adapted.peft_config[name]), copied)


def whole_head(model: Any) -> None:
    """Have a reward model's head `score` learn, in float32."""
    model.score.float().requires_grad_(True)


def save_adapters(adapters: Adapters, folder: Path) -> None:
    """Write adapters into a folder as `peft` does, the same bytes for the same adapters."""
    folder.mkdir(parents=True, exist_ok=True)
    values = adapters.config.to_dict() | {"inference_mode": True}
    # A set of names has another order in each process.
    write_json(folder / CONFIG, {k: sorted(v) if isinstance(v, set) else v for k, v in values.items()})
    weights = {name: weight.detach().cpu().contiguous() for name, weight in adapters.weights.items()}
    save_file(weights, folder / STORED, metadata={"format": "pt"})


def load_adapters(folder: Path) -> Adapters | None:
    """The adapters in a folder; None if there are none.

    Raises:
        DataError: they are not LoRA, or their weights are missing.
    """
    if not (folder / CONFIG).exists():
        return None
    if not (folder / STORED).exists():
        raise DataError(f"{folder}: {STORED} is missing; only adapters in safetensors are read")
    from peft import LoraConfig, PeftConfig

    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise DataError(f"{folder}: adapters of type {config.peft_type}; only LoRA is read")
    config.inference_mode = False
    return Adapters(config, load_file(folder / STORED))


def split_head(stored: Adapters) -> tuple[Adapters, torch.Tensor | None]:
    """Adapters without the head that is stored among them, and that head, [1, width] or None."""
    config = copy.deepcopy(stored.config)
    config.task_type = config.modules_to_save = None  # with these `peft` would put a second head beside
    weights = {name: weight for name, weight in stored.weights.items() if name != HEAD}
    return Adapters(config, weights), stored.weights.get(HEAD)


def with_head(adapters: Adapters, head: torch.Tensor) -> Adapters:
    """Adapters with a reward model's head among them, as `peft` stores those of a sequence classification."""
    config = copy.deepcopy(adapters.config)
    config.task_type, config.modules_to_save = "SEQ_CLS", ["score"]
    return Adapters(config, adapters.weights | {HEAD: head.detach()})


@torch.no_grad()
def merged(held: Any, name: str = DEFAULT) -> Any:
    """A model with the adapters merged into its weights, in float32, for whoever has no `peft`.

    The merged model is a copy, and the held one stays as it is. In bfloat16 most of a small change would be
    rounded away. Without adapters it is the held model itself.

    Args:
        held: a `Policy` or a `RewardModel`; name: of its adapters.
    """
    if held.adapters is None:
        return held.model
    adapted = copy.deepcopy(held.adapters)
    for module in adapted.modules():
        vars(module).pop("forward", None)  # a trainer's own would compute with the held model's weights
    if getattr(held.model, "is_quantized", False):
        plain = adapted.unload().dequantize(torch.float32)  # `peft` would merge into weights of 4 bits
        return put_on(plain.float(), adapters_of(held.adapters, name)).merge_and_unload()
    return adapted.float().merge_and_unload(adapter_names=[name])


def _adapted(model: Any, config: Any) -> Any:
    from peft import get_peft_model

    return get_peft_model(model, replace(copy.deepcopy(config), base_model_name_or_path=None))


def _weights(everything: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Those of a model's weights that are adapters of a name, by their names in a file of `peft`."""
    end = f".{name}.weight"
    return {
        key.removesuffix(end) + ".weight": p
        for key, p in everything.items()
        if ".lora_" in key and key.endswith(end)
    }


@torch.no_grad()
def _fill(adapted: Any, name: str, adapters: Adapters) -> None:
    """Give the adapters of a name their weights."""
    places = _weights(dict(adapted.named_parameters()), name)
    odd = places.keys() ^ adapters.weights.keys()
    odd |= {key for key in places.keys() - odd if places[key].shape != adapters.weights[key].shape}
    if odd:
        layer = min(odd).removeprefix("base_model.model.")
        raise DataError(f"these adapters are of another model: {len(odd)} weights do not fit, first {layer}")
    for key, p in places.items():
        p.copy_(adapters.weights[key])
