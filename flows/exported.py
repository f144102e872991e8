"""A policy as a plain Hugging Face folder, and the proof that transformers alone answers with it as we do."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from transformers import GenerationConfig

from rlhf.data.errors import DataError
from rlhf.models.adapters import adapters_of, save_adapters
from rlhf.models.policy import Policy
from rlhf.models.sampling import check_sampling, sample
from rlhf.models.template import Chat, Row, as_row
from tasks.runtime.errors import StageError

CHECK = Path(__file__).with_name("export_check.py")
MOST_TOKENS = 64  # of an answer in the proof
# Two tokens are tied where their logits differ by less, in standard deviations of all logits there: rounding
# decides between them, and another order of the same sums may decide otherwise.
TIE = {torch.float32: 1e-3}
TIE_IN_16_BITS = 0.1
CONVERSATIONS: tuple[Any, ...] = (
    "Where can I learn to swim?",
    "Naïve café, 東京, 🦩: what do these have in common?",
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi there"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "And you?"},
    ],
)


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled where nothing else is said: as they were where the policy was judged."""

    temperature: float
    longest: int


def write_folder(policy: Policy, sampling: Sampling, folder: Path, base: str | None = None) -> None:
    """Write weights, config, tokenizer, chat template and generation config; nothing in it is ours.

    Args:
        base: how others may call the model that its adapters sit on, such as its Hub id. Adapters are apart
            from its weights then, which are in the folder as well.
    """
    if policy.adapters is None:
        policy.model.save_pretrained(folder)
    else:
        _write_adapters(policy, folder, base)
    tokenizer = copy.deepcopy(policy.tokenizer)
    tokenizer.chat_template = chat_template(policy)
    _begin_texts_alike(policy, tokenizer)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["padding_side"] = "left"  # save_pretrained loses it, and padding behind a prompt spoils its answer
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    generation_config(policy, sampling).save_pretrained(folder)


def _write_adapters(policy: Policy, folder: Path, base: str | None) -> None:
    """The base as it is and the adapters beside: transformers loads both from one folder."""
    assert policy.base
    folder.mkdir(parents=True)
    for file in policy.base.iterdir():
        if file.name.endswith((".safetensors", ".safetensors.index.json")):
            shutil.copyfile(file, folder / file.name)
    config = json.loads((policy.base / "config.json").read_text())
    config["dtype"] = policy.settled.dtype  # the weights may lie there in another
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    adapters = adapters_of(policy.adapters)
    adapters.config.base_model_name_or_path = base
    save_adapters(adapters, folder)


def chat_template(policy: Policy) -> str | None:
    """The template as the policy was trained with it; None where it knows only text.

    The arguments of its settings stand in it as defaults, since nobody outside knows them.
    """
    template = policy.template
    if not isinstance(template, Chat):
        return None
    defaults = "".join(
        f"{{%- if {name} is not defined %}}{{%- set {name} = {value!r} %}}{{%- endif -%}}\n"
        for name, value in template.arguments.items()
    )
    return defaults + template.source


def _begin_texts_alike(policy: Policy, tokenizer: Any) -> None:
    """Make the tokenizer by itself begin a text as the policy's template does: BOS once, or not at all."""
    ours = policy.template.prompt(as_row("a")) if not _wraps(policy) else None
    if ours is None or tokenizer("a")["input_ids"] == ours:
        return
    bos = tokenizer.bos_token
    begins = bos is not None and ours[:1] == [tokenizer.bos_token_id]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A" if begins else "$A",
        special_tokens=[(bos, tokenizer.bos_token_id)] if begins else [],
    )


def _wraps(policy: Policy) -> bool:
    return isinstance(policy.template, Chat) and policy.template.wrap


def generation_config(policy: Policy, sampling: Sampling) -> GenerationConfig:
    """Stops where training did, samples as the evaluation did; what the base model came with is left out."""
    how: dict[str, Any] = {"do_sample": False}
    if sampling.temperature > 0:
        how = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": 1.0}
    return GenerationConfig(
        eos_token_id=list(policy.stops),
        pad_token_id=policy.pad,
        bos_token_id=policy.tokenizer.bos_token_id,
        max_new_tokens=sampling.longest,
        **how,
    )


def questions(policy: Policy, rows: Sequence[Row], longest: int) -> list[Row]:
    """What to ask for the proof: these rows, and conversations of ours, as far as the policy can read them.

    Raises:
        DataError: it can read none of them.
    """
    own = [as_row(asked) for asked in CONVERSATIONS if isinstance(asked, str)]
    if isinstance(policy.template, Chat):
        asked = [[{"role": "user", "content": text}] for text in CONVERSATIONS if isinstance(text, str)]
        own += [as_row(messages) for messages in [*asked, *CONVERSATIONS] if not isinstance(messages, str)]
    if _wraps(policy):
        rows = [
            row if row.get("messages") else as_row([{"role": "user", "content": row["prompt"]}])
            for row in [*rows, *own]
        ]
    else:
        rows = [*rows, *own]
    readable = []
    for row in rows:
        try:
            ids = policy.template.prompt(row)
        except DataError:  # not every template has a system turn
            continue
        if 0 < len(ids) <= policy.context - longest:
            readable.append(row)
    if not readable:
        raise DataError("the policy can read none of the prompts of the proof; its context is too short")
    return readable


def prove(policy: Policy, sampling: Sampling, folder: Path, rows: Sequence[Row]) -> list[str]:
    """Load the folder in a fresh process without this project and compare greedy answers, id for id.

    Returns:
        what holds, a line each.

    Raises:
        StageError: something does not hold.
    """
    check_sampling(policy.model)
    longest = min(sampling.longest, MOST_TOKENS)
    rows = questions(policy, rows, longest)
    got = _fresh_process(folder, rows, longest)
    lines = [_settled(policy, sampling, got)]
    prompts = [policy.template.prompt(row) for row in rows]
    for row, ours, theirs in zip(rows, prompts, got["prompts"], strict=True):
        if ours != theirs:
            raise StageError(
                f"the export is wrong: transformers reads {_first_words(row)!r} as {theirs[:12]}..., and the "
                f"policy was trained with {ours[:12]}..."
            )
    bos = policy.tokenizer.bos_token_id
    if bos is not None and any(ids.count(bos) > 1 for ids in got["prompts"]):
        raise StageError("the export is wrong: transformers writes BOS more than once")
    lines.append(f"{len(rows)} prompts have the same token ids{'' if bos is None else ', BOS at most once'}")
    tied = 0
    for row, prompt, theirs in zip(rows, prompts, got["answers"], strict=True):
        ours = greedy(policy, prompt, longest)
        if ours != theirs:
            gap = _gap(policy, prompt, ours, theirs)
            if not gap < TIE.get(_dtype(policy), TIE_IN_16_BITS):
                raise StageError(
                    f"the export is wrong: to {_first_words(row)!r} transformers answers "
                    f"{policy.template.text(theirs)[:60]!r}, and we {policy.template.text(ours)[:60]!r}"
                )
            tied += 1
    ties = f"; {tied} part at a tie of two tokens, which rounding decides" if tied else ""
    lines.append(f"greedy answers to {len(rows) - tied} of {len(rows)} prompts are the same ids{ties}")
    return lines


def _dtype(policy: Policy) -> torch.dtype:
    """The type in which exported weights lie: under adapters that of the base, however it is computed."""
    dtype: torch.dtype = getattr(torch, policy.settled.dtype) if policy.adapters else policy.model.dtype
    return dtype


def merging(policy: Policy, whole: Policy, sampling: Sampling, rows: Sequence[Row]) -> str:
    """How many greedy answers of a policy with adapters its merged weights give as well, in a line."""
    longest = min(sampling.longest, MOST_TOKENS)
    prompts = [whole.template.prompt(row) for row in questions(whole, rows, longest)]
    same = sum(greedy(policy, ids, longest) == greedy(whole, ids, longest) for ids in prompts)
    return (
        f"LoRA adapters are merged into the weights, in float32: {same} of {len(prompts)} greedy answers are "
        f"those of the adapters on a base in {policy.settled.dtype}"
    )


def greedy(policy: Policy, prompt: list[int], longest: int) -> list[int]:
    """Our greedy answer to a prompt, as in evaluation."""
    return sample(
        policy.model,
        [prompt],
        stop=policy.stops,
        pad=policy.pad,
        temperature=0,
        uniforms=torch.zeros(1, longest),
    )[0]


def _settled(policy: Policy, sampling: Sampling, got: Mapping[str, Any]) -> str:
    """Pad, stops and sampling as transformers has them of the folder.

    Raises:
        StageError: they are not the policy's.
    """
    wanted = generation_config(policy, sampling)
    expected = {name: getattr(wanted, name) for name in got["sampling"]}
    stops = got["stops"] if isinstance(got["stops"], list) else [got["stops"]]
    checks = {
        "padding_side": (got["padding_side"], "left"),
        "pad token": (got["pad"], policy.pad),
        "EOS": (got["eos"], policy.tokenizer.eos_token_id),
        "stop tokens": (sorted(stops), sorted(policy.stops)),
        "sampling": (got["sampling"], expected),
        "dtype": (got["dtype"], str(_dtype(policy)).removeprefix("torch.")),
    }
    for name, (theirs, ours) in checks.items():
        if theirs != ours:
            raise StageError(
                f"the export is wrong: transformers loads {name} {theirs}, and it must be {ours}"
            )
    if not 0 <= got["pad"] < got["rows"] or got["pad"] in stops:
        raise StageError(
            f"the export is wrong: the pad token {got['pad']} ends answers or is outside the {got['rows']} "
            "rows of the embedding"
        )
    return (
        f"transformers {got['transformers']} alone loads it ({got['dtype']}): pad, stop tokens and sampling "
        "are the policy's"
    )


def _gap(policy: Policy, prompt: list[int], ours: list[int], theirs: list[int]) -> float:
    """By how much our logits prefer our token where two answers part, in their standard deviations."""
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if at is None:  # one of them ended earlier
        return float("inf")
    ids = torch.tensor([prompt + ours[:at]], device=policy.model.device)
    with torch.no_grad():
        logits = policy.model(input_ids=ids, use_cache=False).logits[0, -1].float()
    return float((logits[ours[at]] - logits[theirs[at]]) / logits.std())


def _first_words(row: Row) -> str:
    messages = row.get("messages")
    text = messages[-1]["content"] if messages else row["prompt"]
    return str(text)[:60]


def _fresh_process(folder: Path, rows: Sequence[Row], longest: int) -> dict[str, Any]:
    """What `export_check.py` prints of a folder.

    Raises:
        StageError: the folder does not load or generate there.
    """
    asked = {
        "folder": str(folder.resolve()),
        "longest": longest,
        # the standard library and installed packages, not the folders of editable installs
        "paths": [path for path in sys.path if path and not Path(path, "rlhf").is_dir()],
        "questions": [
            {"prompt": row["prompt"], "messages": [dict(turn) for turn in row.get("messages") or ()] or None}
            for row in rows
        ],
    }
    with tempfile.TemporaryDirectory() as empty:
        path = Path(empty, "questions.json")
        path.write_text(json.dumps(asked))
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(CHECK), str(path)],
            cwd=empty,
            capture_output=True,
            text=True,
            check=False,
            env={
                **os.environ,
                "OMP_NUM_THREADS": str(torch.get_num_threads()),  # sums are rounded by their number
                "HF_HUB_OFFLINE": "1",  # the folder has to be whole
            },
        )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise StageError(f"the export is wrong: transformers alone cannot use it: {said[:300]}")
    got: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return got
