"""The model card of an exported policy: README.md as the Hub shows it, from what the run left behind.

What is not known is left out or said to be unknown. What was simulated is called simulated. Names, texts of
data and warnings come from outside, so Markdown and HTML in them are escaped.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from flows.exported import Sampling
from flows.past_params import past_settings
from flows.policies import NamedPolicy
from flows.trace import COMPARISONS, outputs, ranked_by
from rlhf.data.contracts import COMPARISON
from rlhf.data.table import read_table
from rlhf.measures.display import count_text
from rlhf.measures.summary import judge_label, verdict
from rlhf.report.markdown import bullets, plain, table
from rlhf.report.page import SOURCES
from rlhf.settings import params_of
from tasks.graph import flat

UNKNOWN = "unknown"  # the Hub's own word for a licence that nobody stated


def model_card(named: NamedPolicy, sampling: Sampling, proof: Sequence[str], chat: bool) -> str:
    """README.md of an exported policy.

    Args:
        named: the policy and the files of its run.
        sampling: how it answers by default.
        proof: what was checked of the export, a line each.
        chat: whether it reads conversations.
    """
    run = _Run(named)
    sections = [
        f"# {plain(named.names[0])}",
        _what(run),
        "## How good it is",
        *_outcome(run),
        "## What it was made from",
        _table(_origin(run)),
        "## Use",
        *_use(named, sampling, chat),
        "## This export",
        bullets(proof),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(run, chat)),
    ]
    front = yaml.safe_dump(_front(run), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


class _Run:
    """What a run left behind; everything that is gone is empty."""

    def __init__(self, named: NamedPolicy) -> None:
        self.named = named
        params = named.file("params.yaml")
        self.params: dict[str, Any] = (
            flat(past_settings(params_of(params, "params.yaml"), "params.yaml").model_dump(by_alias=True))
            if params
            else {}
        )
        lock = yaml.safe_load(named.file("dvc.lock") or b"") or {}
        self.hashes = outputs(lock) if "stages" in lock else {}
        self.evaluation = self._json("metrics/evaluation.json")
        self.prepared, self.collected = self._json("metrics/prepare.json"), self._json("metrics/collect.json")
        self.base = self._json("metrics/base.json") | self._json("runs/base.json")
        self.gate = self._json("runs/register.json").get("gate") or {}
        self.tags: Mapping[str, str] = dict(named.version.tags) if named.version else {}
        self.labelers = self._labelers()

    @property
    def simulated(self) -> bool:
        """Whether programs ranked in place of people."""
        return self.params.get("collect.labelers") == "simulated"

    def _json(self, path: str) -> dict[str, Any]:
        content = self.named.file(path)
        value = json.loads(content) if content else {}
        return value if isinstance(value, dict) else {}

    def _labelers(self) -> dict[str, Any]:
        content = self.named.file(f"{COMPARISONS}/comparisons.parquet")
        if not content:
            return {}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "comparisons.parquet")
            path.write_bytes(content)
            return ranked_by(read_table(path, COMPARISON))


def _front(run: _Run) -> dict[str, Any]:
    """The YAML that the Hub reads."""
    licence = _licence(run) or UNKNOWN
    known = bool(re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence))  # as the Hub writes its names
    front: dict[str, Any] = {
        **({"license": licence} if known else {"license": "other", "license_name": licence}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["rlhf", "ppo", "reward-model", "rlhf-pipeline"],
    }
    if base := base_on_the_hub(run.named):
        front |= {"base_model": base, "base_model_relation": "finetune"}
    data = run.params.get("ingest.path")
    if data and run.params.get("ingest.source") == "hub" and _on_the_hub(data):
        front["datasets"] = [str(data)]
    if run.simulated:
        front["tags"].append("simulated-preferences")
    return front


def base_on_the_hub(named: NamedPolicy) -> str | None:
    """The Hub id of the base model; None for a folder, a base from scratch, and where nobody knows."""
    params = yaml.safe_load(named.file("params.yaml") or b"") or {}
    base = (params.get("base") or {}).get("path")
    return str(base) if base and _on_the_hub(base) else None


def _on_the_hub(name: Any) -> bool:
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", str(name))) and not Path(str(name)).exists()


def _licence(run: _Run) -> str | None:
    return str(run.base["licence"]) if run.base.get("licence") else None


def _what(run: _Run) -> str:
    said = (
        "A policy trained by reinforcement learning from human feedback: supervised fine-tuning on "
        "demonstrations, a reward model of rankings, and PPO (Ouyang et al. 2022), by rlhf-pipeline."
    )
    if run.simulated:
        said += (
            "\n\n**The preferences are simulated**: programs ranked the outputs, not people. This policy "
            "says what a simulation rewards."
        )
    return said


def _outcome(run: _Run) -> list[str]:
    """The rate with judge, n and interval, the gate, the warnings."""
    if run.evaluation:
        texts = [plain(verdict(run.evaluation))]
    elif "rate" in run.tags:
        judge = {"name": run.tags.get("judge", ""), "kind": run.tags.get("judge_kind", "")}
        rate, low, high, n = (run.tags.get(key, "") for key in ("rate", "low", "high", "n"))
        texts = [
            plain(
                f"Preferred to the reference: {rate} ({low} to {high}), n = {n}, judge {judge_label(judge)}."
            )
        ]
    else:
        return ["Nothing that came with it says how it was judged."]
    warnings = [*run.evaluation.get("warnings", []), *run.gate.get("warnings", [])]
    if warnings:
        texts.append("\n".join(f"- Warning: {plain(line)}" for line in dict.fromkeys(warnings)))
    if run.gate:
        promoted = "let it through" if run.gate.get("promoted") else "did not let it through"
        rules = sorted(run.gate.get("rules", []), key=lambda rule: rule["held"])
        lines = [
            f"- {plain(rule['rule'])} {'held' if rule['held'] else 'failed'}: {plain(rule.get('detail', ''))}"
            for rule in rules
        ]
        texts.append(f"The gate {promoted}:\n\n" + "\n".join(lines))
    return texts


def _origin(run: _Run) -> list[tuple[str, str]]:
    """Base, data, labelers, run; what is not known is left out."""
    params, version = run.params, run.named.version
    rows = [("Base model", _base(run))]
    if params.get("base.type") == "pretrained" or params.get("base.path"):
        rows.append(("Licence of the base", _licence(run) or "unknown: see where it comes from"))
        rows.append(("Base, hash of its weights", str(run.base.get("hash") or "")))
        rows.append(("Base, changed", "; ".join(map(str, run.base.get("changes") or []))))
    source = str(params.get("ingest.source") or "")
    if source == "builtin":
        rows.append(("Texts", "simulated: prompts and references are written by programs"))
    rows.append(
        ("Data", " ".join(filter(None, [SOURCES.get(source, source), _shared(params.get("ingest.path"))])))
    )
    rows.append(("Data, SHA-256", str(params.get("ingest.sha256") or "")))
    rows += [
        (f"{path}, DVC's hash", run.hashes[path])
        for path in ("data/raw", "data/prepared")
        if path in run.hashes
    ]
    for kind in ("demonstrations", "comparisons"):
        splits = {name: split["rows"] for name, split in run.prepared.get(kind, {}).items() if split["rows"]}
        if splits:
            parts = ", ".join(f"{name} {count:,}" for name, count in sorted(splits.items()))
            rows.append((kind.capitalize(), f"{sum(splits.values()):,} ({parts})"))
    rows += _ranked(run)
    if run.evaluation:
        judge = run.evaluation["judge"]
        rows.append(("Judge", f"{judge_label(judge)}, {count_text(run.evaluation['n'], 'held-out prompts')}"))
    if version:
        rows.append(("Registered as", f"{version.name} version {version.version}"))
        rows.append(("Weights, hash", run.tags.get("weights", "")))
    return [(name, text) for name, text in rows if text]


def _shared(path: Any) -> str:
    """A path as a card for others shows it: where it was on the machine of the run is nobody's business."""
    return Path(str(path)).name if path else ""


def _base(run: _Run) -> str:
    params = run.params
    if params.get("base.path"):
        revision = params.get("base.revision")
        return f"{params['base.path']} at {revision}" if revision else _shared(params["base.path"])
    scale = params.get("base.scale")
    return f"none: a Llama of {scale} parameters trained from scratch on the same data" if scale else ""


def _ranked(run: _Run) -> list[tuple[str, str]]:
    who = "simulated labelers" if run.simulated else "labelers"
    if not run.labelers:
        ranked = (run.collected.get("all") or {}).get("rankings")
        return [("Rankings", f"{ranked:,} by {who}")] if ranked else []
    people = run.labelers["people"]
    groups = {person["group"] for person in people.values()}
    versions = ", ".join(f"{name} ({count:,})" for name, count in run.labelers["guideline versions"].items())
    return [
        ("Rankings", f"{run.labelers['rankings']:,} by {len(people)} {who} ({', '.join(sorted(groups))})"),
        ("Guideline versions", versions),
    ]


def _table(rows: Sequence[tuple[str, str]]) -> str:
    if not rows:
        return "Nothing that came with it says so."
    return table(["", ""], rows)


def _use(named: NamedPolicy, sampling: Sampling, chat: bool) -> list[str]:
    asked = '[{"role": "user", "content": "..."}]'
    if chat:
        inputs = (
            f"inputs = tokenizer.apply_chat_template({asked}, add_generation_prompt=True,\n"
            '                                       return_dict=True, return_tensors="pt")'
        )
    else:
        inputs = 'inputs = tokenizer("...", return_tensors="pt")'
    call = (
        f'client.chat.completions.create(model="policy", messages={asked})'
        if chat
        else 'client.completions.create(model="policy", prompt="...")'
    )
    how = f"temperature {sampling.temperature:g}" if sampling.temperature else "greedy"
    return [
        f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
{inputs}
answer = model.generate(**inputs)[0, inputs["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
```""",
        """By an OpenAI client, from `python -m flows.serve FOLDER --as policy` in a checkout of
rlhf-pipeline, or from any other server of Hugging Face folders:

```python
from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8800/v1", api_key="any")
"""
        + f"{call}\n```",
        f"By default it answers as it was judged: {how}, at most {sampling.longest} tokens. "
        "`generation_config.json` says so, and at which tokens an answer ends."
        + ("" if named.evaluated else " (How it was judged is not known; these are defaults.)"),
    ]


def _limits(run: _Run, chat: bool) -> list[str]:
    """What the reader should not take it for."""
    lines = [
        "It answers what its reward model rewards, which is not what is right; nobody checked what it says.",
        "Text in which a user spells a special token is read as that token by transformers; rlhf-pipeline "
        "reads it as text.",
    ]
    if not chat:
        lines.insert(1, "It continues text in the form of its training prompts; it has no chat template.")
    kind = (run.evaluation.get("judge") or {}).get("kind") or run.tags.get("judge_kind")
    if kind and kind != "human":
        lines.insert(0, "No people judged it: the rate above is that of a program.")
    if run.simulated:
        lines.insert(0, "No people labeled for it: its preferences are simulated.")
    return lines
