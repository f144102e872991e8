"""Parameters of the base model, of either type, and of the adapters on it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, field_validator

from rlhf.settings.section import Section, param


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021) that are trained in place of all weights."""

    rank: int = param(16, "rank of each adapter", ge=1, le=1024)
    alpha: float | None = param(
        None, "what the adapters add is multiplied by alpha / rank; null for twice the rank", gt=0, le=65_536
    )
    dropout: float = param(0.0, "share of an adapter's inputs that training leaves out", ge=0, lt=1)
    targets: Literal["auto"] | list[str] = param(
        "auto", "auto: every linear layer of the blocks; or the names of the layers, such as [q_proj, v_proj]"
    )

    @field_validator("targets")
    @classmethod
    def _named(cls, targets: str | list[str]) -> str | list[str]:
        if not targets or not all(targets):
            raise ValueError("name at least one layer, or write auto")
        return targets


LORA = "adapters that SFT, the reward model and PPO train in place of all weights; null trains all of them"


class Scratch(Section):
    """A base model of our own: a tokenizer and a small Llama, trained on the corpus."""

    type: Literal["scratch"] = param("scratch", "trained here, on the corpus")
    # It is not named `size`: DVC's run cache leaves out parameters of that name (and `nfiles`), so another
    # size would bring back the model of this one.
    scale: Literal["0.1M", "0.15M", "0.2M", "0.3M", "0.5M", "1M", "2M", "3M"] = param(
        "0.1M", "rung of the size ladder, in parameters"
    )
    tokenizer: Literal["word", "bpe"] = param("word", "word: a closed vocabulary; bpe: byte-level, any text")
    vocab_size: int = param(1024, "at most this many tokens", "tokens", ge=260, le=262_144)
    context: int = param(256, "longest sequence, prompt and response together", "tokens", ge=32, le=131_072)
    template: Literal["plain", "chatml"] = param(
        "plain", "plain: text as it is; chatml: conversations by a ChatML template of the tokenizer's own"
    )
    steps: int = param(700, "optimiser steps", "steps", ge=1, le=10_000_000)
    batch_size: int = param(64, "texts an optimiser step", "texts", ge=1, le=65_536)
    learning_rate: float = param(3e-3, "peak learning rate of embeddings and norms (AdamW)", gt=0, le=1)
    muon_learning_rate: float = param(0.02, "peak learning rate of the hidden matrices (Muon)", gt=0, le=1)
    save_every: int = param(200, "optimiser steps between checkpoints", "steps", ge=1, le=1_000_000)
    lora: Lora | None = param(None, LORA)


class Pretrained(Section):
    """A base model that was trained elsewhere; only its safetensors are read, and no code from it is run."""

    type: Literal["pretrained"] = param("pretrained", "a causal language model from the Hub or a folder")
    path: str = param(..., "id on the Hugging Face Hub, such as Qwen/Qwen3-0.6B, or a folder", min_length=1)
    revision: str | None = param(
        None, "commit of the Hub that is fetched, all 40 digits of its hash; null for a folder"
    )
    sha256: str | None = param(
        None,
        "hash that the folder and the template's file must have; filled in when a run is planned, so that "
        "other content is another base",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = param(
        "auto", "type of the weights in memory; auto: as the device computes best"
    )
    quantization: Literal["none", "4bit"] = param(
        "none",
        "4bit: the weights lie in memory as 4-bit NormalFloats and adapters learn (QLoRA), on GPUs only",
    )
    context: int | None = param(
        None,
        "longest sequence, prompt and response together; null for all that the model reaches",
        "tokens",
        ge=32,
        le=2**24,
    )
    template: str = param(
        "auto",
        "auto: the tokenizer's chat template where it has one, else plain; plain: text as it is; chat: plain "
        "prompts as a user's turn too; or a file with a Jinja template",
        min_length=1,
    )
    template_arguments: dict[str, Any] = param(
        {}, "arguments of the chat template, such as {enable_thinking: false}"
    )
    lora: Lora | None = param(None, LORA)
    attention: str | None = param(
        None, "attention of transformers: sdpa, eager, flash_attention_2 ...; null for its choice"
    )
    gradient_checkpointing: bool = param(
        False, "computes activations twice in place of keeping them: less memory, about a third more time"
    )

    @field_validator("revision")
    @classmethod
    def _commit(cls, revision: str | None) -> str | None:
        if revision is not None and not re.fullmatch(r"[0-9a-f]{40}", revision):
            raise ValueError(
                "a branch or a tag may move: write the whole hash of a commit, 40 hexadecimal digits"
            )
        return revision

    @field_validator("template")
    @classmethod
    def _template(cls, template: str) -> str:
        if template not in ("auto", "plain", "chat") and not re.search(r"[./\\]", template):
            raise ValueError("Input should be 'auto', 'plain', 'chat' or the path of a Jinja file")
        return template


def base_name(base: Scratch | Pretrained) -> str:
    """How a base is called in a word or two: its rung of the size ladder, or where it comes from."""
    return base.scale if isinstance(base, Scratch) else base.path


def base_type(values: Any) -> str:
    """The type of a base; a section that does not say it has the first type that knows all its keys."""
    if isinstance(values, Section):
        return str(getattr(values, "type", ""))
    if not isinstance(values, dict):
        return next(iter(BASES))
    fits = (name for name, variant in BASES.items() if set(values) <= set(variant.model_fields))
    return str(values.get("type") or next(fits, next(iter(BASES))))


BASES: dict[str, type[Section]] = {"scratch": Scratch, "pretrained": Pretrained}
Base = Annotated[
    Annotated[Scratch, Tag("scratch")] | Annotated[Pretrained, Tag("pretrained")], Discriminator(base_type)
]
