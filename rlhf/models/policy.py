"""A policy in hand: a language model and its tokenizer, loaded, copied and saved.

On disk a policy is a Hugging Face folder (config, safetensors, tokenizer) with `policy.json`, which says what
was settled of it once: context, template, arithmetic. Pad token, stop tokens, context and template are
attributes of a loaded model, and nobody else asks a config or a tokenizer for them.

A policy that learnt by LoRA is a folder of adapters; its `policy.json` says on which model folder they sit,
by its path from there and by the hash of its weights.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import InitVar, asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from rlhf.compute import compute_in_float32
from rlhf.data.errors import DataError
from rlhf.data.files import write_json, written_beside
from rlhf.data.model_folder import weights_hash
from rlhf.models.adapters import HEAD, adapters_of, merged, put_on, save_adapters, with_head
from rlhf.models.attention import use_short_attention
from rlhf.models.damage import damage_said
from rlhf.models.settled import SETTLED, UNSETTLED, Settled, hash_of, how_to_load, open_folder
from rlhf.models.template import Template, load_tokenizer, template_of

PAD = "<pad>"


class Held(Protocol):
    """A model in hand, `Policy` or `RewardModel`: what `save_model` writes."""

    model: Any
    tokenizer: Any
    settled: Settled
    adapters: Any
    base: Path | None


@dataclass
class Policy:
    """A causal language model, its tokenizer, and what is settled of both.

    Args:
        stop_tokens: tokens that end a response besides those that the model names itself.

    Attributes:
        settled: see `Settled`.
        adapters: the `PeftModel` around the model, which has their layers in it; None if all weights learn.
        base: the folder that the weights without adapters come from; None for a model that was made here.
        pad: the id that fills rows of unlike lengths up.
        template: turns rows into ids and ids into text.
        stops: the ids that end a response; see `stop_ids`.
        context: the most tokens of a sequence; see `context_length`.

    Raises:
        DataError: a stop token is not one token of the tokenizer.
    """

    model: Any  # a PreTrainedModel; its generate() and heads are beyond what type checkers follow
    tokenizer: Any
    stop_tokens: InitVar[Sequence[str]] = ()
    settled: Settled = UNSETTLED
    adapters: Any = None
    base: Path | None = None
    pad: int = field(init=False)
    template: Template = field(init=False)
    stops: list[int] = field(init=False)
    context: int = field(init=False)

    def __post_init__(self, stop_tokens: Sequence[str]) -> None:
        if self.settled.attention is None:
            use_short_attention(self.model)
        self.pad = self.tokenizer.pad_token_id
        self.template = template_of(self.tokenizer, self.settled.template, self.settled.arguments)
        self.stops = sorted({*stop_ids(self.model, self.tokenizer, stop_tokens), *self.template.stops})
        self.context = self.settled.context or context_length(self.model)


def load_policy(path: Path | str, dtype: str | None = None) -> Policy:
    """Load a policy folder, with the model that its adapters sit on if it has some.

    Only safetensors are read, and no code in the folder is run. Adapters may learn, what they sit on may not.

    Args:
        dtype: of the weights in place of the settled one; `float32` for a training of all weights.

    Raises:
        DataError: no such folder, a damaged file in it, no EOS token, or the base of its adapters is missing
            or another one.
    """
    folder, settled, adapters = open_folder(path, dtype)
    with damage_said(folder, path):
        model = AutoModelForCausalLM.from_pretrained(folder, **how_to_load(settled))
        tokenizer = load_tokenizer(path)
    compute_in_float32(model)
    if change := settle_pad(model, tokenizer, str(path)):
        print(f"{path}: {change}", flush=True)
    if adapters and Path(path, "generation_config.json").exists():
        model.generation_config = GenerationConfig.from_pretrained(path)
    adapted = put_on(model, adapters) if adapters else None
    return Policy(model.eval(), tokenizer, settled=settled, adapters=adapted, base=folder)


def without_adapters(policy: Policy) -> Policy:
    """The policy as one model, for whoever has no `peft`: its adapters merged into the weights, in float32.

    In bfloat16 most of what they learnt would be rounded away. Without adapters it is the policy itself.
    """
    if policy.adapters is None:
        return policy
    settled = replace(policy.settled, dtype="float32", quantization="none")
    return Policy(merged(policy).eval(), policy.tokenizer, settled=settled)


def settle_pad(model: Any, tokenizer: Any, name: str, stops: Collection[int] = ()) -> str | None:
    """Make a tokenizer pad with a token that ends nothing, and tell the model.

    A tokenizer without such a token takes one that its makers reserved, or else a new one. A new token gets a
    row of the embeddings that no token has yet, or one more row: the mean of the others, so that sampling it
    is no more likely than sampling an average token.

    Args:
        name: how messages name the model.
        stops: ids that end an answer besides EOS.

    Returns:
        what changed, for people to see; None where the pad token was one of its own.

    Raises:
        DataError: no EOS token.
    """
    if tokenizer.eos_token_id is None:
        raise DataError(
            f"{name}: the tokenizer has no EOS token, so nothing would end an answer; "
            "set eos_token in its tokenizer_config.json"
        )
    embeddings = model.get_input_embeddings().weight
    pad_id = tokenizer.pad_token_id
    ends = {tokenizer.eos_token_id, *stops}
    if pad_id is not None and pad_id not in ends and pad_id < len(embeddings):
        return None
    named = {*ends, tokenizer.bos_token_id, tokenizer.unk_token_id}
    reserved = [
        (_RESERVED.search(token.content).lastindex, i, token.content)  # type: ignore[union-attr]
        for i, token in tokenizer.added_tokens_decoder.items()
        if token.special and i not in named and i < len(embeddings) and _RESERVED.search(token.content)
    ]
    pad = min(reserved)[2] if reserved else PAD
    tokenizer.add_special_tokens({"pad_token": pad})
    if tokenizer.pad_token_id >= len(embeddings):
        grow_embeddings(model, tokenizer.pad_token_id + 1)
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None:
            config.pad_token_id = tokenizer.pad_token_id
    return f"the tokenizer had no pad token of its own; it pads with {pad!r} now"


# Names of tokens that mean nothing yet, the best first.
_RESERVED = re.compile(r"(pad)|(reserved|unused|placeholder|control)", re.IGNORECASE)


@torch.no_grad()
def grow_embeddings(model: Any, rows: int) -> None:
    """Grow the embeddings to `rows`, and the head with them; each new row is the mean of the old ones."""
    before = len(model.get_input_embeddings().weight)
    model.resize_token_embeddings(rows, mean_resizing=False)
    for part in (model.get_input_embeddings(), model.get_output_embeddings()):
        for p in part.parameters() if part is not None else ():
            p[before:] = p[:before].mean(0, dtype=torch.float32)


def stop_ids(model: Any, tokenizer: Any, stop_tokens: Sequence[str] = ()) -> list[int]:
    """The ids that end a response: EOS, those that the model's generation config adds, and `stop_tokens`.

    Raises:
        DataError: a stop token is not one token that the tokenizer knows.
    """
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    for token in stop_tokens:
        spelled = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(spelled) != 1 or spelled[0] == getattr(tokenizer, "unk_token_id", None):
            raise DataError(
                f"the stop token {token!r} is {len(spelled)} tokens of this tokenizer; "
                "it must be one it knows"
            )
        ids.add(spelled[0])
    return sorted(ids)


def context_length(model: Any) -> int:
    """The most tokens that the positions of a model (or its config) reach; 2^30 without an end (ALiBi)."""
    config = getattr(model, "config", model).get_text_config()
    names = ("max_position_embeddings", "seq_length")
    return next((n for name in names if (n := getattr(config, name, None))), 1 << 30)


def true_copy(model: Any) -> Any:
    """A copy that computes with its own weights; see `drop_borrowed_forwards`."""
    copied = copy.deepcopy(model)
    drop_borrowed_forwards(copied)
    return copied


def drop_borrowed_forwards(model: Any) -> None:
    """Remove every `forward` that runs another model's weights.

    A trainer that puts a forward of its own on a model (TRL's fused head) keeps the model's forward in a
    closure. deepcopy does not copy closures, so the copy would compute with the original's weights.
    """
    for module in model.modules():
        forward = vars(module).get("forward")
        closure = getattr(getattr(forward, "__func__", forward), "__closure__", None) or ()
        owners = [getattr(cell.cell_contents, "__self__", module) for cell in closure]
        if any(owner is not module and isinstance(owner, torch.nn.Module) for owner in owners):
            del module.forward


def save_model(held: Held, path: Path | str, model: Any = None) -> None:
    """Write a model with its tokenizer and what is settled of it, beside its place and then renamed.

    Of a model with adapters these are written, and where their base is from there. The first of several
    processes writes. If they share the model (FSDP), all of them must call this.

    Args:
        held: the policy or the reward model.
        model: weights to write as a whole model, in place of `held.model` and its adapters.

    Raises:
        DataError: adapters on a model that is in no folder.
    """
    adapted = held.adapters if model is None else None
    weights, model = None, held.model if model is None else model
    if torch.distributed.is_initialized():
        weights = whole_weights(adapted or model)
        if torch.distributed.get_rank():
            return
    with written_beside(path) as beside:
        settled = asdict(held.settled)
        if adapted is None:
            model.save_pretrained(beside, state_dict=weights)
        else:
            settled |= _save_adapters(held, beside, weights)
        settled["hash"] = weights_hash(beside)
        held.tokenizer.save_pretrained(beside)
        write_json(beside / SETTLED, settled)


def _save_adapters(held: Held, folder: Path, weights: dict[str, torch.Tensor] | None) -> dict[str, Any]:
    """Write the adapters of a model into a folder; returns what `policy.json` says of them besides."""
    if held.base is None:
        raise DataError("adapters are saved without their model, and this one is in no folder: save it first")
    path = os.path.relpath(held.base, folder)
    adapters = adapters_of(held.adapters, weights=weights)
    more: dict[str, Any] = {"base": {"path": path, "hash": hash_of(held.base)}}
    if hasattr(held.model, "score"):
        score = held.model.score.weight if weights is None else weights[HEAD]
        adapters = with_head(adapters, score)
        more["reward_shift"] = getattr(held.model.config, "reward_shift", 0.0)
    adapters.config.base_model_name_or_path = path
    save_adapters(adapters, folder)
    if getattr(held.model, "generation_config", None) is not None:
        held.model.generation_config.save_pretrained(folder)
    return more


def whole_weights(model: Any) -> dict[str, torch.Tensor] | None:
    """The weights of a model that several processes share, in the first of them; None if each has all."""
    if not hasattr(model, "unshard"):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_model_state_dict(model, options=whole))  # type: ignore[arg-type]
