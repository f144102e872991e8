"""Policies: the tokenizer and model of a size, loading, saving and copying.

A policy is a Hugging Face folder (config, safetensors, tokenizer). Its pad token and its context are settled
when it is loaded.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from rlhf.data.errors import DataError
from rlhf.data.files import written_beside

PAD = "<pad>"


@dataclass
class Policy:
    """A causal language model and its tokenizer."""

    model: Any  # a PreTrainedModel; its generate() and heads are beyond what type checkers follow
    tokenizer: Any


def load_policy(path: Path | str) -> Policy:
    """Load a policy folder: safetensors only, no code from the folder.

    Raises:
        DataError: no such folder, or no EOS token.
    """
    if not (Path(path) / "config.json").exists():
        raise DataError(f"{path}: no model here; run the stage that writes it (dvc repro)")
    model = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    settle_pad(model, tokenizer, str(path))
    return Policy(model.eval(), tokenizer)


def settle_pad(model: Any, tokenizer: Any, name: str) -> None:
    """Have a tokenizer pad with a token that is not its EOS, and the model know it.

    Where it has none, a token that its makers reserved becomes it, else a new one: in a row of the embeddings
    that no token has yet, or in one more row. That row is the mean of the others, so that sampling it is as
    unlikely as an average token.

    Args:
        name: what the messages call the model.

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
    if pad_id is not None and pad_id != tokenizer.eos_token_id and pad_id < len(embeddings):
        return
    named = {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}
    reserved = [
        (_RESERVED.search(token.content).lastindex, i, token.content)  # type: ignore[union-attr]
        for i, token in tokenizer.added_tokens_decoder.items()
        if token.special and i not in named and i < len(embeddings) and _RESERVED.search(token.content)
    ]
    pad = min(reserved)[2] if reserved else PAD
    tokenizer.add_special_tokens({"pad_token": pad})
    if tokenizer.pad_token_id >= len(embeddings):
        _add_row(model, tokenizer.pad_token_id + 1)
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None:
            config.pad_token_id = tokenizer.pad_token_id
    print(f"{name}: the tokenizer had no pad token of its own; it pads with {pad!r} now", flush=True)


# names of tokens that mean nothing yet, the best ones first
_RESERVED = re.compile(r"(pad)|(reserved|unused|placeholder|control)", re.IGNORECASE)


@torch.no_grad()
def _add_row(model: Any, rows: int) -> None:
    """Grow the embeddings to `rows`; the new ones are the mean of the others."""
    before = len(model.get_input_embeddings().weight)
    model.resize_token_embeddings(rows, mean_resizing=False)
    for part in (model.get_input_embeddings(), model.get_output_embeddings()):
        for p in part.parameters() if part is not None else ():
            p[before:] = p[:before].mean(0)


def context_length(model: Any) -> int:
    """Tokens that a model's positions reach; beyond any text where they have no end (ALiBi, state space)."""
    config = model.config.get_text_config()
    names = ("max_position_embeddings", "seq_length")
    return next((n for name in names if (n := getattr(config, name, None))), 1 << 30)


def true_copy(model: Any) -> Any:
    """A copy that answers by weights of its own; see `drop_borrowed_forwards`."""
    copied = copy.deepcopy(model)
    drop_borrowed_forwards(copied)
    return copied


def drop_borrowed_forwards(model: Any) -> None:
    """Take off every `forward` that runs another model's weights.

    A trainer that puts a forward of its own on a model (TRL's fused head) keeps the model's in a closure.
    deepcopy does not look into it, and the copy would answer by the original's weights.
    """
    for module in model.modules():
        forward = vars(module).get("forward")
        closure = getattr(getattr(forward, "__func__", forward), "__closure__", None) or ()
        owners = [getattr(cell.cell_contents, "__self__", module) for cell in closure]
        if any(owner is not module and isinstance(owner, torch.nn.Module) for owner in owners):
            del module.forward


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, path: Path | str) -> None:
    """Write model and tokenizer to a folder, beside then renamed.

    Of several processes the first one writes; of a model that they share (FSDP) all have to call this.
    """
    weights = None
    if torch.distributed.is_initialized():
        if hasattr(model, "unshard"):
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

            whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
            weights = get_model_state_dict(model, options=whole)
        if torch.distributed.get_rank():
            return
    with written_beside(path) as beside:
        model.save_pretrained(beside, state_dict=weights)
        tokenizer.save_pretrained(beside)
