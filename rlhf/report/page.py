"""The report of a run: one self-contained page.

The page loads nothing from outside and runs no script; texts of data and models are escaped. The same inputs
give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.measures.display import LABELS, RANKED_BY, cost_text, count_text, in_order, number, rate_text
from rlhf.measures.summary import judge_label, verdict
from rlhf.report import policy_tables
from rlhf.report.base_tables import base_table
from rlhf.report.curves import CURVES
from rlhf.report.data_tables import findings_table
from rlhf.report.judge_tables import judge_tables
from rlhf.report.reward_tables import metric_tables, reward_tables
from rlhf.report.templates import page_template

SOURCES = {"builtin": "built-in task", "files": "files", "qa-feedback": "QA feedback"}


def render_report(
    evaluation: Mapping[str, Any],
    charts: Mapping[str, str],
    page: Mapping[str, Any],
    *,
    gate: Mapping[str, Any],
    params: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
    reward: Mapping[str, Any] | None = None,
    rankings: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
    findings: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The report as HTML.

    Args:
        evaluation: what stands in metrics/evaluation.json.
        charts: name -> SVG; `preferred-to-reference` and any others.
        page: what stands in data/judgments/page.json: `stage_key` and `inputs` (path -> hash) of the
            evaluation, and `samples` with `place`, `prompt`, `messages` of a conversation, `reference`,
            `outputs` (policy -> text), `preferred`, `margin`.
        gate: `promoted`, `version`, `rules` (each `rule`, `held`, `detail`) and `warnings`.
        params: parameter -> value; `collect.labelers` says who ranked.
        about: the run: its `name`, `date` (YYYY-MM-DD), `commit` of git, parameters that `changed` from those
            of the commit, `seconds` and `memory_mb` of its stages, and the `champion` that it was compared
            with: `version`, `run` and a `link` to its report. What is not known is left out.
        reward, rankings, data, base: metrics of the stages reward, collect, prepare and base, whatever they
            hold.
        findings: what the rules found in the data; see `rlhf.report.data_tables`.
    """
    policies = evaluation["policies"]
    about = {"name": "", "date": "", "commit": "", "champion": None} | dict(about or {})
    labelers = f"by {ranked_by(params)}"
    quality = (reward or {}).get("quality") or {}
    losses = {key: value for key, value in (reward or {}).items() if key != "quality"}
    first, more = _first_of_each_place(page["samples"])
    return page_template("rlhf.report", "page.html.j2").render(
        evaluation=evaluation,
        verdict=verdict(evaluation),
        headline=rate_text(policies["ppo"]),
        labels=LABELS,
        gate=gate,
        rules=sorted(gate["rules"], key=lambda rule: rule["held"]),
        warnings=list(
            dict.fromkeys(map(_sentence, [*evaluation.get("warnings", []), *gate.get("warnings", [])]))
        ),
        about=about,
        facts=facts(evaluation, params, about, data or {}, rankings or {}),
        charts=charts,
        curves={name: svg for name, svg in charts.items() if name in CURVES},
        rates="; ".join(f"{LABELS.get(k, k)} {rate_text(v)}" for k, v in in_order(policies).items()),
        policies=policy_tables.policy_table(evaluation),
        comparisons=policy_tables.comparison_table(evaluation),
        rouge=policy_tables.rouge_tables(evaluation),
        champion=policy_tables.champion_table(gate),
        quality=policy_tables.quality_table(evaluation),
        judges=judge_tables(evaluation),
        slices=policy_tables.slice_tables(evaluation),
        safety=policy_tables.safety_table(evaluation),
        snapshots=policy_tables.snapshot_table(evaluation),
        hacking=(evaluation.get("overoptimisation") or {}).get("hacking"),
        early_stopping=early_stopping_text(evaluation),
        findings=findings_table(findings),
        base=base_table(base or {}),
        base_changes=(base or {}).get("changes", []),
        reward_tables=reward_tables(quality, labelers),
        metrics=metric_tables(losses, f"Reward model, held-out rankings {labelers}")
        + metric_tables(rankings or {}, f"Rankings {labelers}"),
        samples=first,
        more_samples=more,
        stage_key=page["stage_key"],
        inputs=page["inputs"],
        params=params,
    )


def ranked_by(params: Mapping[str, Any]) -> str:
    """Who ranked, in words that pass no program off as people."""
    return RANKED_BY.get(str(params.get("collect.labelers")), "labelers")


def facts(
    evaluation: Mapping[str, Any],
    params: Mapping[str, Any],
    about: Mapping[str, Any],
    data: Mapping[str, Any],
    rankings: Mapping[str, Any],
) -> list[tuple[str, str]]:
    """What was trained on what, and who judged: pairs of a name and a text; what is not known is left out.

    Args:
        evaluation, params, about, data, rankings: see `render_report`.
    """
    source = str(params.get("ingest.source", ""))
    source = SOURCES.get(source, source)
    sizes = [
        count_text(sum(split["rows"] for split in data[table].values()), table)
        for table in ("demonstrations", "comparisons")
        if any(split["rows"] for split in data.get(table, {}).values())
    ]
    ranked = (rankings.get("all") or {}).get("rankings")
    if ranked:
        sizes.append(f"{count_text(ranked, 'rankings')} by {ranked_by(params)}")
    corpus = (data.get("corpus") or {}).get("rows")
    scratch = f", trained from scratch on {count_text(corpus, 'texts')}" if corpus else ""
    base = f"{params['base.scale']}{scratch}" if "base.scale" in params else str(params.get("base.path", ""))
    base += f" at {str(params['base.revision'])[:12]}" if params.get("base.revision") else ""
    texts = {
        "Data": f"{source}: {', '.join(sizes)}" if sizes else source,
        "Base model": base,
        "Judged by": f"{judge_label(evaluation['judge'])}, {evaluation['n']} held-out prompts",
        "Changed parameters": about.get("changed", ""),
        "Cost of all stages": cost_text(about["seconds"], about["memory_mb"]) if about.get("seconds") else "",
    }
    return [(name, text) for name, text in texts.items() if text]


def early_stopping_text(evaluation: Mapping[str, Any]) -> str:
    """What the early-stopping judge did during PPO; nothing where there was none."""
    stopping = evaluation.get("held_out")
    if not stopping:
        return ""
    hacking, kept = stopping["hacking"], f"the weights after update {stopping['kept']} are the policy."
    if stopping["stopped"] is None:
        return f"The early-stopping judge saw no reward hacking on {stopping['n']} held-out prompts; {kept}"
    return (
        f"Reward hacking stopped PPO after update {stopping['stopped']}: from update {hacking['before']} to "
        f"{hacking['after']} the early-stopping judge's preference on {stopping['n']} held-out prompts fell "
        f"by {number(hacking['fall'])} while the reward rose by {number(hacking['rise'], 2)}; {kept}"
    )


def _first_of_each_place(
    samples: Sequence[Mapping[str, Any]],
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The first sample of each place, and the others; PPO's output first, JSON having lost the order."""
    samples = [
        {**sample, "outputs": dict(reversed(in_order(sample["outputs"]).items()))} for sample in samples
    ]
    first = {sample["place"]: sample for sample in reversed(samples)}
    shown = [sample for sample in samples if sample is first[sample["place"]]]
    return shown, [sample for sample in samples if sample is not first[sample["place"]]]


def _sentence(line: str) -> str:
    return line[:1].upper() + line[1:].rstrip(".") + "."
