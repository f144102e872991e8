"""A policy in hand: a language model and its tokenizer, loaded, copied and saved.

On disk a policy is a Hugging Face folder (config, safetensors, tokenizer) with `policy.json`, which says what
was settled of it once: context, template, arithmetic. Pad token, stop tokens, context and template are
attributes of a loaded model, and nobody else asks a config or a tokenizer for them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.data.errors import DataError
from rlhf.data.files import read_json, write_json, written_beside
from rlhf.models.template import Template, template_of

PAD = "<pad>"
SETTLED = "policy.json"


@dataclass(frozen=True)
class Settled:
    """What is settled of a model once, when it becomes the base of a run, and is the same for all that learn
    from it.

    Attributes:
        context: the most tokens of a sequence; None for as many as the model's positions reach.
        template: `auto`, `plain` or `chat`, see `rlhf.models.template.template_of`.
        arguments: what the chat template is rendered with besides the messages.
        dtype: of the stored weights that do not learn, `float32` or `bfloat16`.
        attention: the implementation in transformers; None for its default.
    """

    context: int | None = None
    template: str = "auto"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    attention: str | None = None


UNSETTLED = Settled()


class Held(Protocol):
    """A model in hand, `Policy` or `RewardModel`: what `save_model` writes."""

    model: Any
    tokenizer: Any
    settled: Settled


@dataclass
class Policy:
    """A causal language model, its tokenizer, and what is settled of both.

    Args:
        stop_tokens: tokens that end a response besides those that the model names itself.

    Attributes:
        settled: see `Settled`.
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
    pad: int = field(init=False)
    template: Template = field(init=False)
    stops: list[int] = field(init=False)
    context: int = field(init=False)

    def __post_init__(self, stop_tokens: Sequence[str]) -> None:
        self.pad = self.tokenizer.pad_token_id
        self.template = template_of(self.tokenizer, self.settled.template, self.settled.arguments)
        self.stops = sorted({*stop_ids(self.model, self.tokenizer, stop_tokens), *self.template.stops})
        self.context = self.settled.context or context_length(self.model)


def load_policy(path: Path | str) -> Policy:
    """Load a policy folder: only safetensors are read, and no code in the folder is run.

    Raises:
        DataError: no such folder, or no EOS token.
    """
    if not (Path(path) / "config.json").exists():
        raise DataError(f"{path}: no model here; run the stage that writes it (dvc repro)")
    settled = read_settled(path)
    model = AutoModelForCausalLM.from_pretrained(path, **how_to_load(settled))
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    if change := settle_pad(model, tokenizer, str(path)):
        print(f"{path}: {change}", flush=True)
    return Policy(model.eval(), tokenizer, settled=settled)


def read_settled(folder: Path | str) -> Settled:
    """What was settled of the model in a folder; the defaults where nothing was, as of a user's own model."""
    path = Path(folder, SETTLED)
    if not path.exists():
        return Settled()
    known = read_json(path)
    return Settled(**{name: known[name] for name in asdict(UNSETTLED) if name in known})


def how_to_load(settled: Settled) -> dict[str, Any]:
    """The keywords of `from_pretrained`: safetensors only, no code of the folder, the settled arithmetic."""
    more = {"attn_implementation": settled.attention} if settled.attention else {}
    return {"use_safetensors": True, "dtype": getattr(torch, settled.dtype), **more}


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

    The first of several processes writes. If they share the model (FSDP), all of them must call this.

    Args:
        held: the policy or the reward model.
        model: the weights to write in place of `held.model`.
    """
    weights, model = None, held.model if model is None else model
    if torch.distributed.is_initialized():
        if hasattr(model, "unshard"):
            from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

            whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
            weights = get_model_state_dict(model, options=whole)
        if torch.distributed.get_rank():
            return
    with written_beside(path) as beside:
        model.save_pretrained(beside, state_dict=weights)
        held.tokenizer.save_pretrained(beside)
        write_json(beside / SETTLED, asdict(held.settled))
