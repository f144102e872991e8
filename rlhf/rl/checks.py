"""What `PPOTrainer` is given: rewards by name, checks before any training, what stays as it is."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from rlhf.data.errors import DataError
from rlhf.models.reward_model import RewardModel
from rlhf.rl.config import PPOConfig
from rlhf.rl.rewards import Reward


def check_policy(policy: Any, reference: Any) -> None:
    if not isinstance(policy, PreTrainedModel) or policy.get_output_embeddings() is None:
        raise DataError(
            f"the policy is a {type(policy).__name__}; it must be a causal language model of transformers, "
            "without adapters (give those as peft_config)"
        )
    if reference is policy:
        raise DataError(
            "the reference is the policy itself, which learns; give a copy, or none to have one made"
        )


def check_prompts(prompts: Any, tokenizer: Any) -> None:
    if isinstance(prompts, str):
        raise DataError("the prompts are one text; give a list of texts")
    if not len(prompts):
        raise DataError("there are no prompts to train on")
    first = prompts[0]
    chat = isinstance(first, list) and all(isinstance(m, dict) and "content" in m for m in first)
    if not isinstance(first, str) and not chat:
        raise DataError(
            f"prompt 0 is a {type(first).__name__}; prompts are texts or lists of messages "
            "(of a dataset, one column: dataset['prompt'])"
        )
    if chat and not tokenizer.chat_template:
        raise DataError("the prompts are chat messages and the tokenizer has no chat template")


def check_roles(
    policy: Any,
    value: Any,
    rewards: dict[str, Reward],
    weights: list[float],
    args: PPOConfig,
    ptx_texts: Sequence[str],
    tokenizer: Any,
) -> None:
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise DataError("the tokenizer needs a pad token that differs from its EOS token")
    if not rewards:
        raise DataError("there is no reward to train on")
    if len(weights) != len(rewards):
        raise DataError(f"there are {len(rewards)} rewards and {len(weights)} reward_weights")
    if args.ptx_coef and not len(ptx_texts):
        raise DataError("ptx_coef is above 0 and there are no ptx_texts")
    if args.value_warmup and value is None:
        raise DataError("value_warmup needs a value network of its own: a value head would move the policy")
    scorers = {name: r.model if isinstance(r, RewardModel) else r for name, r in rewards.items()}
    if value is not None and any(value is model for model in scorers.values()):
        raise DataError("the value network is the reward model itself, which is frozen; give a copy")
    for name, model in {"value": value, **{f"reward ({name})": r for name, r in scorers.items()}}.items():
        if isinstance(model, PreTrainedModel) and (
            model.config.num_labels != 1 or not hasattr(model, "score")
        ):
            raise DataError(
                f"the {name} model is a {type(model).__name__} with {model.config.num_labels} labels; "
                "it must be a sequence-classification model with one"
            )
    for name, reward in rewards.items():
        if isinstance(reward, RewardModel) and reward.tokenizer.get_vocab() == tokenizer.get_vocab():
            rewards[name] = reward.model  # reads the policy's ids as they are
    for name, model in {"value": value, **{f"reward ({name})": r for name, r in rewards.items()}}.items():
        if isinstance(model, PreTrainedModel) and model.config.vocab_size != policy.config.vocab_size:
            raise DataError(
                f"the {name} model has a vocabulary of {model.config.vocab_size}, the policy one of "
                f"{policy.config.vocab_size}; give a reward with another tokenizer as RewardModel"
            )


def stop_ids(tokenizer: Any, stop_tokens: list[str]) -> list[int]:
    ids = [tokenizer.eos_token_id]
    for token in stop_tokens:
        found = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(found) != 1 or found[0] == getattr(tokenizer, "unk_token_id", None):
            raise DataError(
                f"the stop token {token!r} is {len(found)} tokens of this tokenizer; it must be one it knows"
            )
        ids += found
    return ids


def frozen_parts(model: Any, layers: int) -> list[nn.Module]:
    """What `freeze_layers` keeps as it is: the embeddings and the first layers; nothing for 0."""
    if not layers:
        return []
    blocks = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList)]
    blocks = [m for m in blocks if len(m) == model.config.num_hidden_layers]
    if not blocks or layers > len(blocks[0]):
        raise DataError(f"freeze_layers is {layers}; the model has {model.config.num_hidden_layers} layers")
    return [model.get_input_embeddings(), *blocks[0][:layers]]


def freeze(model: Any, layers: int) -> None:
    """Keep the embeddings and the first layers as they are."""
    for part in frozen_parts(model, layers):
        part.requires_grad_(False)


def adapted(policy: Any, peft_config: Any, layers: int) -> Any:
    """The `peft` model of a policy, without adapters in the layers that stay as they are.

    `peft` has an adapter learn, in whatever layer it is, each time it is set or switched on again, so only an
    adapter that is not there stays as it is.

    Raises:
        DataError: nothing is left to adapt, or the configuration has other weights of those layers learn.
    """
    from peft import get_peft_model

    inside = {m for part in frozen_parts(policy, layers) for m in part.modules()}
    if inside:
        peft_config, names = copy.copy(peft_config), [n for n, m in policy.named_modules() if m in inside]
        before = getattr(peft_config, "exclude_modules", None) or []
        if isinstance(before, str):
            peft_config.exclude_modules = "|".join([f"(?:{before})", *map(re.escape, names)])
        else:
            peft_config.exclude_modules = {*before, *names}
    try:
        model = get_peft_model(policy, peft_config)
    except ValueError as error:
        raise DataError(f"peft_config and freeze_layers {layers} leave nothing to learn: {error}") from None
    if any(p.requires_grad for part in frozen_parts(policy, layers) for p in part.parameters()):
        raise DataError(f"freeze_layers is {layers}, and the peft_config has weights of those layers learn")
    return model


def switch_dropout_off(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    if hasattr(model, "config") and hasattr(model.config, "attention_dropout"):
        model.config.attention_dropout = 0.0
