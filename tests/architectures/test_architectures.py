"""The whole pipeline on conversations, from parameters alone, for base models of several architectures.

Each base is a tiny model with random weights of that architecture, with the published tokenizer and template
where there is one. A run without `RLHF_ARCHITECTURES` takes a sample of them; `make architectures` sets it
and takes all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Workspace
from tiny_models import tiny_model

from rlhf.data.files import read_json
from rlhf.models.policy import load_policy
from rlhf.models.scratch import train_tokenizer
from rlhf.models.template import Chat, load_tokenizer

EVERYTHING = bool(os.environ.get("RLHF_ARCHITECTURES"))
CITIES = ["Oslo", "Rome", "Lima", "Bern", "Kyiv", "Cairo", "Quito", "Paris", "Accra", "Hanoi"]
LORA = {"rank": 4}
STAGES = (
    *("ingest", "prepare", "validate", "base", "sft", "collect"),
    *("validate-comparisons", "reward", "ppo", "evaluate"),
)


@dataclass(frozen=True)
class Case:
    """A base model.

    Attributes:
        kind: architecture; tokenizer: a published one, or None for one that is trained on the rows.
        base: what `base` says besides type and path.
        sample: whether it is tried without `RLHF_ARCHITECTURES`.
    """

    kind: str
    tokenizer: str | None
    base: dict[str, Any] = field(default_factory=dict)
    sample: bool = False


CASES = {
    "qwen3": Case("qwen3", "qwen3", {"lora": LORA}, sample=True),
    "qwen3 in full": Case("qwen3", "qwen3"),
    "llama3_1": Case("llama", "llama3_1", {"lora": LORA}),
    "gemma3": Case("gemma3_text", "gemma3", sample=True),
    "mistral with a window": Case("mistral", "llama2", {"template": "rlhf/models/chatml.jinja"}),
    "qwen3_moe": Case("qwen3_moe", "qwen3", {"lora": {"rank": 4, "targets": ["q_proj", "v_proj"]}}),
    "gpt_neox": Case("gpt_neox", None, {"template": "rlhf/models/chatml.jinja", "lora": LORA}),
    "gpt2": Case("gpt2", None, {"template": "rlhf/models/chatml.jinja"}),
}


def conversations() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """200 demonstrations and as many rankings, with system turns and several turns."""
    demonstrations, rankings = [], []
    for i in range(200):
        city = CITIES[i % len(CITIES)]
        turns = [{"role": "user", "content": f"What is traveller {i} to see in {city}?"}]
        if i % 2:
            turns.insert(0, {"role": "system", "content": "Answer briefly."})
        if i % 3 == 0:
            turns += [
                {"role": "assistant", "content": f"For how long is {i} there?"},
                {"role": "user", "content": "A day or two."},
            ]
        good, bad = f"The old town of {city}.", "I do not know."
        demonstrations.append({"messages": [*turns, {"role": "assistant", "content": good}]})
        rankings.append(
            {"messages": turns, "completions": [bad, good], "ranking": [2, 1], "labeler_id": f"a{i % 3}"}
        )
    return demonstrations, rankings


def base_folder(case: Case, folder: Path, real_folder: Callable[[str], Path]) -> Path:
    """The model as somebody would bring it: weights, config and the tokenizer's own files."""
    if case.tokenizer:
        files = real_folder(case.tokenizer)
        shutil.copytree(files, folder)
        tokenizer = load_tokenizer(folder)
    else:
        texts = [turn["content"] for row in conversations()[0] for turn in row["messages"]]
        tokenizer = train_tokenizer(texts, "bpe", 400)
        tokenizer.save_pretrained(folder)
    rows = max(tokenizer.get_vocab().values()) + 1
    model = tiny_model(case.kind, tokenizer, vocab_size=rows, max_position_embeddings=512)
    model.save_pretrained(folder)
    return folder


def write_rows(folder: Path) -> Path:
    folder.mkdir()
    for name, rows in zip(("demonstrations", "comparisons"), conversations(), strict=True):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                not (case.sample or EVERYTHING), reason="not of the sample; make architectures tries it"
            ),
        )
        for name, case in CASES.items()
    ],
)
def test_every_stage_runs_from_parameters_alone(
    name: str, workspace: Workspace, tmp_path: Path, real_folder: Callable[[str], Path]
) -> None:
    case = CASES[name]
    folder = base_folder(case, tmp_path / "model", real_folder)
    workspace.set(
        {
            "ingest.source": "files",
            "ingest.path": str(write_rows(tmp_path / "rows")),
            "prepare.judge_share": 0.3,
            "prepare.test_share": 0.2,
            "collect.labelers": "given",
            "reward.learning_rate": 1e-3,
            "ppo.updates": 1,
            "ppo.batch_size": 8,
            "ppo.response_length": 16,
            "ppo.judge_tolerance": None,
            "evaluate.judges": ["reward-model"],
            "evaluate.response_length": 16,
        }
    )
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["base"] = {"type": "pretrained", "path": str(folder), **case.base}
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    figures = {stage: workspace.stage(stage) for stage in STAGES}
    assert figures["sft"]["validation_loss"] < figures["sft"]["validation_loss_before"]
    policy = load_policy("models/ppo")
    assert isinstance(policy.template, Chat)
    assert read_json("metrics/evaluation.json")["n"] >= 20
    if "lora" in case.base:
        sizes = {
            place.name: sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
            for place in Path("models").iterdir()
        }
        weights = {
            place.name: sum(file.stat().st_size for file in place.rglob("*.safetensors"))
            for place in Path("models").iterdir()
        }
        if weights["pretrained"] > 1 << 20:  # of a smaller base, adapters of any rank are a large part
            assert sum(weights.values()) < 1.3 * weights["pretrained"], sizes
