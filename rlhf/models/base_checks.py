"""What is said of a base model before its weights are read: whether it can be used, and has room here.

All of it follows from the model's config and the headers of its weights.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from rlhf.data.errors import DataError
from rlhf.data.hub_errors import first_line
from rlhf.models.adapters import layers_to_adapt, linear_layers
from rlhf.models.base_source import Source
from rlhf.models.logprobs import check_head
from rlhf.models.packing import check_scores
from rlhf.models.policy import context_length
from rlhf.models.sampling import check_sampling
from rlhf.models.score_head import with_score

FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
# Bytes for each weight that learns: itself, its gradient and Adam's two moments, all in float32.
LEARNS = 16
# Where Linux says how much memory a container may have: control groups, version 2 and 1.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# In a miniature, how large what a config counts is. What it does not name keeps its own value or stays unset.
_MINIATURE: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **{"num_key_value_heads": 2, "num_kv_heads": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    **{"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "head_dim": 8, "sliding_window": 6},
    **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8},
    **{"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "rotary_dim": 4},
}


def known_config(source: Source) -> Any:
    """The config of a model that this pipeline can train, as transformers reads it.

    Raises:
        DataError: no architecture of transformers, not a causal language model of text alone, quantised, one
            that keeps a state in place of a cache, or one without a head for rewards.
    """
    name, kind = source.name, source.config.get("model_type")
    if kind not in CONFIG_MAPPING:
        if source.config.get("auto_map"):
            raise DataError(
                f"{name}: {kind} models need code of their own, and no code from a model is run here; take "
                "one of an architecture that transformers has"
            )
        raise DataError(
            f"{name}: transformers {transformers.__version__} does not know the architecture {kind!r}; "
            "upgrade transformers if a newer one does"
        )
    if source.config.get("quantization_config"):
        method = source.config["quantization_config"].get("quant_method", "")
        raise DataError(f"{name}: its weights are quantised ({method}); take the model that was quantised")
    try:
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    except Exception as error:  # a config class may raise anything on values that do not fit
        raise DataError(f"{name}: config.json cannot be read: {first_line(error)}") from None
    causal = AutoModelForCausalLM._model_mapping
    if config.is_encoder_decoder:
        raise DataError(f"{name}: an encoder-decoder model ({kind}); a causal language model is needed")
    if config.get_text_config() is not config:
        raise DataError(
            f"{name}: a {kind} model reads more than text; take one of text alone, such as {kind}_text"
        )
    if type(config) not in causal:
        raise DataError(f"{name}: transformers has no causal language model for {kind} models")
    if causal[type(config)]._is_stateful:
        raise DataError(
            f"{name}: {kind} models keep a state in place of a cache of keys and values, which sampling here "
            "needs; take a model whose layers are all attention"
        )
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise DataError(
            f"{name}: transformers has no sequence classification for {kind} models, and a reward model is "
            "one; take a base of another architecture"
        )
    strange = sorted(set(source.stored) - set(FLOATS))
    if strange:
        raise DataError(
            f"{name}: weights of type {', '.join(strange)}; float32, bfloat16 or float16 are needed, so take "
            "the model before it was quantised"
        )
    return config


def check_options(
    name: str,
    config: Any,
    *,
    context: int | None = None,
    attention: str | None = None,
    checkpointing: bool = False,
) -> None:
    """Refuse what is asked of an architecture that cannot do it.

    Args:
        context: tokens of the longest sequence.
        attention: implementation in transformers.
        checkpointing: whether activations are to be computed twice.

    Raises:
        DataError: a context beyond the model's, or an attention or gradient checkpointing that it has not.
    """
    own = context_length(config)
    if context is not None and context > own:
        raise DataError(
            f"{name} reaches {own} tokens, and base.context is {context}; lower it, or set it to null for "
            "all that the model reaches"
        )
    kind = AutoModelForCausalLM._model_mapping[type(config)]
    if checkpointing and not kind.supports_gradient_checkpointing:
        raise DataError(
            f"{name}: {kind.__name__} has no gradient checkpointing; set base.gradient_checkpointing to false"
        )
    try:
        with torch.device("meta"):
            more = {"attn_implementation": attention} if attention else {}
            AutoModelForCausalLM.from_config(deepcopy(config), **more)
    except Exception as error:  # a package that is not installed, or a kind that this architecture has not
        raise DataError(
            f"{name}: base.attention {attention} cannot be had here: {first_line(error)}; set it to null"
        ) from None


def try_miniature(name: str, config: Any) -> None:
    """Check a tiny model of the same architecture and random weights, which takes less than a second.

    A config of which no miniature can be made is passed over: the checks of the whole model come later.

    Raises:
        DataError: the self-checks refuse the architecture.
    """
    try:
        model = _miniature(config)
        with torch.no_grad():
            model(input_ids=torch.arange(8).unsqueeze(0))
    except Exception:  # whatever an architecture raises on sizes that do not fit together
        return
    self_checks(name, model)


@torch.random.fork_rng(devices=())
def _miniature(config: Any) -> Any:
    whole = config.to_dict()
    names = {**dict.fromkeys(whole), **getattr(config, "attribute_map", {})}
    small = {key: v for key, v in _MINIATURE.items() if key in names and getattr(config, key) is not None}
    if layers := whole.get("layer_types"):
        small["layer_types"] = (list(dict.fromkeys(layers)) * 2)[:2]
    if whole.get("num_key_value_heads") == whole.get("num_attention_heads"):
        small |= {"num_key_value_heads": 4} if "num_key_value_heads" in small else {}
    if "qk_rope_head_dim" in small:
        small |= {"head_dim": small["qk_rope_head_dim"], "qk_head_dim": 8}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(type(config)(**{**whole, **small, "dtype": "float32"})).eval()
    for p in model.parameters():
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.3)
    return model


def self_checks(name: str, model: Any) -> None:
    """Everything that later stages will ask of a model: its head, sampling, and a head for rewards.

    Raises:
        DataError: one of them fails.
    """
    try:
        check_head(model)
        check_sampling(model)
        check_scores(with_score(model, 0), [[[5, 6, 7, 8], [5, 6, 9, 10, 11]], [[3, 4], [3, 7, 8]]], 0)
    except Exception as error:  # an architecture that is used as it was not meant to be may raise anything
        why = str(error) if isinstance(error, DataError) else f"{type(model).__name__}: {first_line(error)}"
        raise DataError(f"{name}: {why}") from None


def refuse_no_disk(name: str, needs: Sequence[tuple[str, Path, int]]) -> None:
    """Refuse a model that the disk has no room for.

    Args:
        needs: what is to be written, where, and its bytes.

    Raises:
        DataError: a file system has less free space than is to be written to it.
    """
    on: dict[int, list[tuple[str, Path, int]]] = defaultdict(list)
    for what, place, size in needs:
        while not place.exists():
            place = place.parent
        on[place.stat().st_dev].append((what, place, size))
    for there in on.values():
        needed, free = sum(size for *_, size in there), shutil.disk_usage(there[0][1]).free
        if needed > free:
            parts = ", ".join(f"{gigabytes(size)} for {what}" for what, _, size in there if size)
            raise DataError(
                f"{name} needs {gigabytes(needed)} of disk ({parts}), and {gigabytes(free)} are free at "
                f"{there[0][1]}; make room, or point HF_HOME or the project to another disk"
            )


def memory_needed(
    config: Any, dtype: torch.dtype, lora: Mapping[str, Any] | None, quantization: str = "none"
) -> dict[str, int]:
    """Bytes that weights, gradients and Adam take, by what is done; activations come on top.

    Args:
        dtype: of weights that do not learn.
        lora: `rank` and `targets` of adapters; None trains all weights.
        quantization: `none`, or `4bit` for linear layers that do not learn.

    Returns:
        `parameters` (a number, no bytes), `sft`, and `ppo`: policy and value network learn, reference and
        reward model do not; with adapters all four share one backbone.

    Raises:
        DataError: no layer has a name that `targets` asks for.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = model.num_parameters()
    if lora is None:
        whole = LEARNS * parameters
        return {"parameters": parameters, "sft": whole, "ppo": 2 * whole + 2 * parameters * dtype.itemsize}
    adapted = layers_to_adapt(model, lora["targets"]).values()
    adapters = sum(lora["rank"] * sum(layer.weight.shape) for layer in adapted)
    layers = linear_layers(model).values()
    small = sum(layer.weight.numel() for layer in layers) if quantization == "4bit" else 0
    backbone = (parameters - small) * dtype.itemsize + small // 2
    return {
        "parameters": parameters,
        "sft": backbone + LEARNS * adapters,
        "ppo": backbone + (2 * LEARNS + 8) * adapters,
    }


def refuse_no_memory(name: str, needed: Mapping[str, int], lora: bool) -> str | None:
    """Refuse a model whose training has no room in memory, whatever its batches are.

    Returns:
        a warning, if SFT has room and PPO has not.

    Raises:
        DataError: SFT has none.
    """
    room, where = memory()
    advice = "take a smaller model" if lora else "set base.lora, or take a smaller model"
    if needed["sft"] > room:
        raise DataError(
            f"{name} needs {gigabytes(needed['sft'])} of memory for SFT ({needed['parameters'] / 1e9:.2f} B "
            f"parameters{', adapters only' if lora else ', all of them learning'}; activations come on top), "
            f"and {where} has {gigabytes(room)}; {advice}"
        )
    if needed["ppo"] <= room:
        return None
    return (
        f"PPO will need {gigabytes(needed['ppo'])} of memory for its networks, and {where} has "
        f"{gigabytes(room)}: {advice}, or share the networks among processes (docs/ppo.md)"
    )


def memory() -> tuple[int, str]:
    """The bytes of memory that trainings have, of all GPUs or else of this machine or container, and whose
    they are."""
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        room = sum(torch.cuda.mem_get_info(device)[1] for device in range(count))
        return room, "the GPU" if count == 1 else f"{count} GPUs"
    room, where = psutil.virtual_memory().total, "this machine"
    for file in LIMITS:
        try:
            limit = int(Path(file).read_text())
        except (OSError, ValueError):  # no control group of that kind, or no limit ("max")
            continue
        if limit < room:
            room, where = limit, "this container"
    return room, where


def gigabytes(size: int) -> str:
    """Bytes as people read them: 1.2 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
