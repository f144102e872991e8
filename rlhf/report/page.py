"""The report of a run: one self-contained page.

The page loads nothing from outside and runs no script; texts of data and models are escaped. The same inputs
give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.measures.display import LABELS, cost_text, in_order, level_text, number, p_text, rate_text
from rlhf.measures.summary import judge_words, verdict
from rlhf.report import tables as report_tables
from rlhf.report.charts import CURVES, INK

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
SOURCES = {"builtin": "built-in task", "files": "files", "qa-feedback": "QA feedback"}


def render_report(
    evaluation: Mapping[str, Any],
    figures: Mapping[str, str],
    page: Mapping[str, Any],
    *,
    gate: Mapping[str, Any],
    params: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
    reward: Mapping[str, Any] | None = None,
    rankings: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
) -> str:
    """The report as HTML.

    Args:
        evaluation: what stands in metrics/evaluation.json.
        figures: name -> SVG; `preferred-to-reference` and any others.
        page: what stands in data/judgments/page.json: `stage_key` and `inputs` (path -> hash) of the
            evaluation, and `samples` with `place`, `prompt`, `reference`, `outputs` (policy -> text),
            `preferred`, `margin`.
        gate: `promoted`, `version`, `rules` (each `rule`, `held`, `detail`) and `warnings`.
        params: parameter -> value; `collect.labelers` says who ranked.
        about: the run: its `name`, `date` (YYYY-MM-DD), `commit` of git, parameters that `changed` from those
            of the commit, `seconds` and `memory_mb` of its stages, and the `champion` that it was compared
            with: `version`, `run` and a `link` to its report. What is not known is left out.
        reward, rankings, data: metrics of the stages reward, collect and prepare, whatever they hold.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rlhf.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    environment.globals.update(number=number, p_text=p_text, level_text=level_text)
    environment.globals.update(inline=inline_svg, visible=visible)
    policies = evaluation["policies"]
    about = {"name": "", "date": "", "commit": "", "champion": None} | dict(about or {})
    simulated = params.get("collect.labelers") == "simulated"
    people = "by simulated labelers" if simulated else "given"
    quality = (reward or {}).get("quality") or {}
    rest = {key: value for key, value in (reward or {}).items() if key != "quality"}
    first, more = _three(page["samples"])
    return environment.get_template("page.html.j2").render(
        evaluation=evaluation,
        verdict=verdict(evaluation),
        headline=rate_text(policies["ppo"]),
        judge_words=judge_words(evaluation),
        labels=LABELS,
        gate=gate,
        rules=sorted(gate["rules"], key=lambda rule: rule["held"]),
        warnings=list(
            dict.fromkeys(map(_sentence, [*evaluation.get("warnings", []), *gate.get("warnings", [])]))
        ),
        about=about,
        facts=facts(evaluation, params, about, data or {}, rankings or {}),
        figures=figures,
        curves={name: svg for name, svg in figures.items() if name in CURVES},
        figure_words="; ".join(f"{LABELS.get(k, k)} {rate_text(v)}" for k, v in in_order(policies).items()),
        policies=report_tables.policy_table(evaluation),
        comparisons=report_tables.comparison_table(evaluation),
        champion=report_tables.champion_table(gate),
        quality=report_tables.quality_table(evaluation),
        judges=report_tables.judge_tables(evaluation),
        slices=report_tables.slice_tables(evaluation),
        safety=report_tables.safety_table(evaluation),
        looks=report_tables.look_table(evaluation),
        hacking=(evaluation.get("overoptimisation") or {}).get("hacking"),
        held_out=held_out_words(evaluation),
        reward_tables=report_tables.reward_tables(quality, people),
        numbers=report_tables.tables(rest, f"Reward model, held-out rankings {people}")
        + report_tables.tables(rankings or {}, f"Rankings {people}"),
        samples=first,
        more_samples=more,
        stage_key=page["stage_key"],
        inputs=page["inputs"],
        params=params,
    )


def facts(
    evaluation: Mapping[str, Any],
    params: Mapping[str, Any],
    about: Mapping[str, Any],
    data: Mapping[str, Any],
    rankings: Mapping[str, Any],
) -> list[tuple[str, str]]:
    """What was trained on what, and who judged: pairs of a name and words; what is not known is left out."""
    judge, source = evaluation["judge"], str(params.get("ingest.source", ""))
    sizes = [
        _count(sum(split["rows"] for split in data[table].values()), table)
        for table in ("demonstrations", "comparisons")
        if any(split["rows"] for split in data.get(table, {}).values())
    ]
    ranked = (rankings.get("all") or {}).get("rankings")
    if ranked:
        who = "simulated labelers" if params.get("collect.labelers") == "simulated" else "labelers"
        sizes.append(f"{_count(ranked, 'rankings')} by {who}")
    trained = (data.get("corpus") or {}).get("rows")
    scratch = f", trained from scratch on {_count(trained, 'texts')}" if trained else ""
    seconds = about.get("seconds")
    cost = cost_text(seconds, about["memory_mb"]) if seconds else ""
    shown = {
        "Data": f"{SOURCES.get(source, source)}: {', '.join(sizes)}"
        if sizes
        else SOURCES.get(source, source),
        "Base model": f"{params['model.scale']}{scratch}" if "model.scale" in params else "",
        "Judged by": f"{judge_words(evaluation)}, {evaluation['n']} held-out prompts"
        + (f" ({judge['name']})" if judge["name"] != judge["kind"] else ""),
        "Changed parameters": about.get("changed", ""),
        "Cost of all stages": cost,
    }
    return [(name, words) for name, words in shown.items() if words]


def held_out_words(evaluation: Mapping[str, Any]) -> str:
    """What the held-out judge did during PPO; nothing where there was none."""
    held_out = evaluation.get("held_out")
    return f"During PPO {held_out['words']} ({held_out['n']} held-out prompts)." if held_out else ""


def inline_svg(svg: str, name: str, description: str) -> Any:
    """A figure for the page: it takes the page's colours and font, scales, and has ids of its own."""
    from markupsafe import Markup, escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"""font-family: [^;"]+;? ?""", "", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor").replace("fill: #ffffff", "fill: none")
    label = f'<svg role="img" aria-label="{escape(description)}" '
    svg = re.sub(r' width="[^"]*" height="[^"]*"', "", svg, count=1)
    return Markup(svg.replace("<svg ", label, 1))


def visible(text: str) -> str:
    """Text with control and direction-override characters as U+FFFD; the template escapes the rest."""
    return _CONTROL.sub("\ufffd", text.strip())


def _three(samples: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The first sample of each place, and the others; PPO's output first, JSON having lost the order."""
    samples = [
        {**sample, "outputs": dict(reversed(in_order(sample["outputs"]).items()))} for sample in samples
    ]
    first = {sample["place"]: sample for sample in reversed(samples)}
    shown = [sample for sample in samples if sample is first[sample["place"]]]
    return shown, [sample for sample in samples if sample is not first[sample["place"]]]


def _sentence(line: str) -> str:
    return line[:1].upper() + line[1:].rstrip(".") + "."


def _count(number: float, what: str) -> str:
    return f"{number:,} {what}"
