"""A base model that was trained elsewhere, settled for all later stages: pad, stops, template, dtype.

Nothing is changed silently: each change is a line of `Base.changes`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, GenerationConfig

from rlhf.data.errors import DataError
from rlhf.data.files import write_json, written_beside
from rlhf.data.hub_errors import first_line
from rlhf.data.model_folder import weights_hash
from rlhf.models.base_checks import FLOATS, self_checks
from rlhf.models.base_source import INDEX, Source
from rlhf.models.policy import Policy, grow_embeddings, settle_pad
from rlhf.models.settled import SETTLED, Settled
from rlhf.models.template import Template, load_tokenizer, template_of

SHARD = "5GB"  # the most of a file of weights that is written anew
# What a generation config may say besides the ids without a word here: it changes no token of an answer.
_HARMLESS = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config"),
    *("use_cache", "output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate"),
}


@dataclass
class Text:
    """A tokenizer with the template that was asked for.

    Attributes:
        tokenizer: with its chat template, or without one where text stays plain.
        kind: `auto`, `plain` or `chat`, and `arguments` of the template: see `template_of`.
        template: made of them.
        changes: what differs from the source, a line each.
    """

    tokenizer: Any
    kind: str
    arguments: dict[str, Any]
    template: Template
    changes: list[str]


@dataclass
class Base:
    """A base model in hand, settled.

    Attributes:
        source: where it comes from.
        policy: model and tokenizer, and what is settled; in memory the weights have the type of the file.
        anew: whether the weights have to be written anew, because they are no longer those of the source.
        changes: what differs from the source, a line each.
    """

    source: Source
    policy: Policy
    anew: bool
    changes: list[str]


def stored_dtype(source: Source) -> torch.dtype:
    """The type that most numbers of the weights are stored in."""
    return FLOATS[max(source.stored, key=lambda name: (source.stored[name], name))]


def loaded_dtype(source: Source, dtype: str, lora: bool) -> torch.dtype:
    """The type that trainings load the weights in.

    `auto` is bfloat16 where the weights are stored in 16 bits and only adapters learn, else float32.

    Raises:
        DataError: all weights are to learn in bfloat16.
    """
    if dtype == "auto":
        return torch.bfloat16 if lora and stored_dtype(source).itemsize == 2 else torch.float32
    if dtype == "bfloat16" and not lora:
        raise DataError(
            "base.dtype is bfloat16 and base.lora is null: weights that learn in bfloat16 lose most small "
            "updates to rounding; set base.lora, or base.dtype to float32 or auto"
        )
    return getattr(torch, dtype)


def read_text(source: Source, template: str, arguments: Mapping[str, Any]) -> Text:
    """The tokenizer of a source, whose weights need not be there yet, with the template that is asked for.

    Args:
        template: `auto`, `plain`, `chat`, or a file with a Jinja template.
        arguments: of the chat template, besides the messages.

    Raises:
        DataError: a tokenizer that cannot be loaded or ends nothing, or a template that cannot be used.
    """
    name = source.name
    try:
        tokenizer = load_tokenizer(source.folder)
    except Exception as error:  # files of a tokenizer may be wrong in any way
        why = first_line(error).replace(f"{source.folder}: ", "")
        raise DataError(f"{name}: its tokenizer cannot be loaded: {why}") from None
    if tokenizer.eos_token_id is None:
        raise DataError(
            f"{name}: the tokenizer has no EOS token, so nothing would end an answer; "
            "set eos_token in its tokenizer_config.json"
        )
    kind, changes = _set_template(tokenizer, template)
    whose = name if template == kind else f"base.template {template}"
    other = "set base.template to plain, or to a file with another template"
    try:
        form = template_of(tokenizer, kind, arguments)
    except (DataError, TemplateError) as error:
        raise DataError(f"{whose}: {first_line(error)}; {other}") from None
    return Text(tokenizer, kind, dict(arguments), form, changes)


def load_base(
    source: Source,
    text: Text,
    *,
    dtype: torch.dtype,
    context: int | None = None,
    attention: str | None = None,
    quantization: str = "none",
) -> Base:
    """Load a fetched source and settle what later stages need; the self-checks end it.

    Args:
        text: its tokenizer and template.
        dtype: see `loaded_dtype`.
        context: the longest sequence; None for all that the model reaches.
        attention: the implementation in transformers with which trainings load it.
        quantization: `none`, or `4bit` for how trainings hold weights that do not learn.

    Raises:
        DataError: weights that are not whole or not of this architecture, a tokenizer of another model, or a
            model that a self-check refuses.
    """
    name, tokenizer = source.name, text.tokenizer
    stored = stored_dtype(source)
    narrowed = dtype.itemsize < stored.itemsize
    # What is stored in half precision is for GPUs: elsewhere its sums overflow or are slow.
    model, changes = _load(source, dtype if narrowed or stored == torch.float16 else stored, attention)
    changes += text.changes
    if dtype != stored:
        written = "written" if narrowed else "read"
        changes.append(f"the weights are stored as {_short(stored)} and {written} as {_short(dtype)}")
    grown = _settle_ids(name, model, tokenizer, text.template, changes)
    if source.config.get("auto_map"):
        changes.append("auto_map, which names code, is left out of config.json")
        with suppress(AttributeError):
            del model.config.auto_map
    model.config.architectures = [type(model).__name__]
    self_checks(name, model)
    settled = Settled(context, text.kind, text.arguments, _short(dtype), attention, quantization)
    return Base(source, Policy(model, tokenizer, settled=settled), narrowed or grown, changes)


def _set_template(tokenizer: Any, template: str) -> tuple[str, list[str]]:
    """Give the tokenizer the template that was asked for; returns its kind and what changed."""
    if template == "plain" and tokenizer.chat_template:
        tokenizer.chat_template = None
        return "plain", ["its chat template is left out, for base.template is plain"]
    if template in ("auto", "plain", "chat"):
        return template, []
    try:
        tokenizer.chat_template = Path(template).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise DataError(f"base.template: {template} cannot be read: {first_line(error)}") from None
    return "chat", [f"its chat template is that of {Path(template).name}"]


def _load(source: Source, dtype: torch.dtype, attention: str | None) -> tuple[Any, list[str]]:
    """The model of a fetched source, and a line on tensors that it has no use for."""
    # Kernels for GPUs (flash attention) are not for the checks here, which a processor makes.
    more = {"attn_implementation": attention} if attention in ("eager", "sdpa") else {}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **more,
        )
    except Exception as error:  # transformers and safetensors raise a dozen kinds for files that do not fit
        raise DataError(f"{source.name}: it cannot be loaded: {first_line(error)}") from None
    missing, extra = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing:
        raise DataError(
            f"{source.name}: {len(missing)} tensors of {type(model).__name__} are not in its weights, such "
            f"as {missing[0]}; this is no whole causal language model"
        )
    lines = [
        f"{len(extra)} tensors that {type(model).__name__} has no use for, such as {name}, are never read"
        for name in extra[:1]
    ]
    return model.eval(), lines


def _settle_ids(name: str, model: Any, tokenizer: Any, template: Template, changes: list[str]) -> bool:
    """Settle pad token, embeddings and stops; returns whether the embeddings grew."""
    rows = len(model.get_input_embeddings().weight)
    beyond = {i for i in tokenizer.get_vocab().values() if i >= rows}
    if strange := beyond - set(tokenizer.added_tokens_decoder):
        raise DataError(
            f"{name}: {len(strange)} ordinary tokens of the tokenizer have ids beyond the {rows} rows of the "
            "embeddings, so it is the tokenizer of another model"
        )
    before = model.generation_config.to_dict()
    named = (
        before["eos_token_id"]
        if isinstance(before.get("eos_token_id"), list)
        else [before.get("eos_token_id")]
    )
    top = max(rows, *beyond, 0) + 1 if beyond else rows
    stops = list(dict.fromkeys([*template.stops, *(i for i in named if i is not None and i < top)]))
    if beyond:
        grow_embeddings(model, top)
        changes.append(
            f"the embeddings grew from {rows} to {top} rows, for the added tokens of the tokenizer reach "
            "beyond them; new rows are the mean of the others"
        )
    pad = settle_pad(model, tokenizer, name, stops)
    if pad:
        changes.append(pad)
    if not beyond and len(model.get_input_embeddings().weight) > rows:
        changes.append(
            f"the embeddings grew from {rows} to {rows + 1} rows; the new one is the mean of the others"
        )
    if set(stops) != {i for i in named if i is not None}:
        spelled = ", ".join(repr(tokenizer.convert_ids_to_tokens(i)) for i in stops)
        changes.append(f"an answer ends at {spelled}, as its generation config now says")
    dropped = {
        key: value
        for key, value in before.items()
        if key not in _HARMLESS and value is not None and value != getattr(GenerationConfig(), key, None)
    }
    if dropped:
        told = ", ".join(f"{key} {json.dumps(value)[:60]}" for key, value in sorted(dropped.items()))
        changes.append(f"left out of its generation config, for samples follow the parameters alone: {told}")
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stops if len(stops) > 1 else stops[0],
        pad_token_id=tokenizer.pad_token_id,
    )
    return len(model.get_input_embeddings().weight) > rows


def save_base(base: Base, folder: Path | str) -> dict[str, Any]:
    """Write the model folder; weights that did not change are linked or copied, not written anew.

    Returns:
        what is known of the model, as metrics and report show it.
    """
    model, tokenizer, source = base.policy.model, base.policy.tokenizer, base.source
    with written_beside(folder) as beside:
        beside.mkdir()
        if base.anew:
            model.save_pretrained(beside, max_shard_size=SHARD)
        else:
            model.config.dtype = stored_dtype(source)
            model.config.save_pretrained(beside)
            model.generation_config.save_pretrained(beside)
            for file in [*source.weights, *([INDEX] if (source.folder / INDEX).exists() else [])]:
                _place(source.folder / file, beside / file, owned=source.revision is not None)
        tokenizer.save_pretrained(beside)
        digest = weights_hash(beside)
        write_json(beside / SETTLED, {**asdict(base.policy.settled), "hash": digest})
    return {
        "name": source.name,
        "revision": source.revision,
        "hash": digest,
        "architecture": type(model).__name__,
        "parameters": model.num_parameters(),
        "vocabulary": len(model.get_input_embeddings().weight),
        "stored": _short(stored_dtype(source) if not base.anew else model.dtype),
        "dtype": base.policy.settled.dtype,
        "context": base.policy.context,
        "template": base.policy.settled.template if tokenizer.chat_template else "plain",
        "stops": [tokenizer.convert_ids_to_tokens(i) for i in base.policy.stops],
        "pad": tokenizer.pad_token,
        "licence": licence(source.folder),
        "changes": base.changes,
    }


def _place(source: Path, target: Path, owned: bool) -> None:
    """Put a file of the source at `target`.

    A file in the Hub's cache is never written again, so it may be the same file; a user's own may be.
    """
    if owned:
        with suppress(OSError):  # another file system, or one without hard links
            os.link(source.resolve(), target)
            return
    shutil.copyfile(source, target)


def licence(folder: Path) -> str | None:
    """The licence of a model: from the front matter of its card, or else the name of the file that has it."""
    from huggingface_hub.repocard import metadata_load

    with suppress(Exception):  # a card is text by anybody, and no licence is a licence unknown
        card = metadata_load(folder / "README.md") or {}
        named = card.get("license_name") if card.get("license") == "other" else card.get("license")
        if isinstance(named := named or card.get("license"), str):
            return named
    files = sorted(file.name for file in folder.iterdir() if file.name.upper().startswith("LICEN"))
    return f"see {files[0]}" if files else None


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
