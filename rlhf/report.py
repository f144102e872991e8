"""The report of a run: one self-contained page.

The page loads nothing from outside and runs no script; texts of data and models are escaped. The same inputs
give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.display import (
    LABELS,
    difference_text,
    interval_text,
    level_text,
    number,
    p_text,
    rate_text,
    signed,
    signed_interval,
)
from rlhf.figures import CURVES, INK
from rlhf.judges import KINDS
from rlhf.summary import judge_words, trust_rows, verdict

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def render_report(
    evaluation: Mapping[str, Any],
    figures: Mapping[str, str],
    page: Mapping[str, Any],
    *,
    gate: Mapping[str, Any],
    params: Mapping[str, Any],
    run: str = "",
    date: str = "",
    commit: str = "",
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
        run: name of the run; empty where the stage was run by hand.
        date: of the run, YYYY-MM-DD.
        commit: of git; empty outside of it.
        reward, rankings, data: metrics of the stages reward, collect and prepare, whatever they hold.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rlhf", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    shown = (number, signed, interval_text, signed_interval, rate_text, difference_text, p_text, level_text)
    environment.globals.update({function.__name__: function for function in shown})
    environment.globals.update(inline=inline_svg, visible=visible)
    policies = evaluation["policies"]
    ppo = policies["ppo"]
    people = "by simulated labelers" if params.get("collect.labelers") == "simulated" else "given"
    quality = (reward or {}).get("quality") or {}
    rest = {key: value for key, value in (reward or {}).items() if key != "quality"}
    return environment.get_template("report.html.j2").render(
        evaluation=evaluation,
        verdict=verdict(evaluation),
        short_verdict=f"{number(ppo['rate'])} preferred to the reference",
        judge_words=judge_words(evaluation),
        labels=LABELS,
        labelers=params.get("collect.labelers"),
        figures=figures,
        curves={name: svg for name, svg in figures.items() if name in CURVES},
        figure_words="; ".join(f"{LABELS.get(k, k)} {number(v['rate'])}" for k, v in policies.items()),
        quality={"reference": evaluation["reference"]} | policies,
        judges=judge_tables(evaluation),
        slices=slice_tables(evaluation),
        safety=safety_table(evaluation),
        looks=look_table(evaluation),
        hacking=(evaluation.get("overoptimisation") or {}).get("hacking"),
        held_out=held_out_words(evaluation),
        reward_tables=reward_tables(quality, people),
        gate=gate,
        run=run,
        date=date,
        data=data or {},
        numbers=tables(rest, f"Reward model, held-out rankings {people}")
        + tables(rankings or {}, f"Rankings {people}"),
        **page,
        commit=commit,
        params=params,
    )


def judge_tables(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every judge's rates, raw and at equal length; and the judges' agreement, where there are several."""
    shown, agree, powered, measured = [], [], [], []
    for name, judge in evaluation.get("judges", {}).items():
        for policy, row in judge["policies"].items():
            level, label = row["length_controlled"], LABELS.get(policy, policy)
            shown.append(
                [
                    f"{label}, {name}",
                    number(row["rate"]),
                    interval_text(row),
                    number(level["rate"]),
                    interval_text(level),
                    str(row["n"]),
                    KINDS[judge["kind"]],
                ]
            )
            if corrected := row.get("corrected"):
                who, rate = f"{name}, its errors known", number(corrected["rate"])
                powered.append([who, label, rate, interval_text(corrected), "", ""])
        if judge.get("trust", {}).get("controls"):
            caption = f"Can the judge {name} be believed? {judge['trust']['reason']}"
            columns = ["rate, interval", "n", "lower end above", ""]
            measured.append(_table(caption, columns, trust_rows(judge)))
        for other, found in judge.get("agreement", {}).items():
            if found:
                low, high = found["raw_interval"]
                same = interval_text({"low": low, "high": high})
                agree.append([f"{name} with {other}", number(found["raw"]), same])
                for figure in ("alpha", "kappa"):
                    value = found[figure]
                    agree[-1] += (
                        ["", ""] if value is None else [f"{value:.2f}", _span(found[f"{figure}_interval"])]
                    )
                agree[-1].append(str(found["n"]))
        for other, of in judge.get("prediction_powered", {}).items():
            powered += [
                [
                    f"{name} helped by {other}",
                    LABELS.get(policy, policy),
                    number(row["rate"]),
                    interval_text(row),
                    str(row["n_human"]),
                    f"{row['effective']:.0f}",
                ]
                for policy, row in of.items()
                if row
            ]
    columns = ["preferred", "interval", "at equal length", "interval", "n", "kind"]
    found = [_table("Preferred to the reference, by every judge", columns, shown)] if shown else []
    if agree:
        columns = ["same answer", "interval", "alpha", "interval", "kappa", "interval", "n"]
        found.append(_table("Do the judges agree?", columns, agree))
    if powered:
        columns = ["policy", "preferred", "interval", "judged by people", "worth, in judgments by people"]
        found.append(_table("The rate that labelers would give, by a model", columns, powered))
    return found + measured


def slice_tables(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """PPO by slice, and whether it fell against SFT there."""
    columns = ["preferred", "interval", "n", "against SFT", "p"]
    return [
        _table(
            f"PPO by {kind}",
            columns,
            [
                [
                    row["name"],
                    number(row["rate"]),
                    interval_text(row),
                    str(row["n"]),
                    signed(row["difference"]),
                    p_text(row["p_value"]) + (", fell" if row["fell"] else ""),
                ]
                for row in rows
            ],
        )
        for kind, rows in evaluation.get("slices", {}).items()
    ]


def safety_table(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """Shares of outputs with findings, by policy."""
    rows = [
        [LABELS.get(policy, policy)]
        + [number(row[what]["share"]) for what in ("banned", "personal_data", "repetitive", "empty")]
        + [str(row["n"])]
        for policy, row in evaluation.get("safety", {}).items()
    ]
    columns = ["banned words", "personal data", "repetitive", "no text", "n"]
    return _table("Outputs with findings", columns, rows) if rows else None


def look_table(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """The looks along PPO."""
    found = evaluation.get("overoptimisation")
    if not found:
        return None
    best_of = (found.get("best_of_n") or {"looks": []})["looks"]
    named = [(str(look["update"]), look) for look in found["looks"]]
    named += [(f"best of {look['n']} by SFT", look) for look in best_of if look["n"] > 1]
    rows = [
        [name, f"{look['kl']:.2f}", f"{look['score']:+.2f}", number(look["rate"]), interval_text(look)]
        for name, look in named
    ]
    caption = f"Held-out prompts along PPO: judge {found['judge']['name']}, n = {found['n']}"
    return _table(caption, ["KL, nats", "reward", "preferred", "interval"], rows, corner="update")


def held_out_words(evaluation: Mapping[str, Any]) -> str:
    """What the held-out judge did during PPO; nothing where there was none."""
    found = evaluation.get("held_out")
    return f"During PPO {found['words']} ({found['n']} held-out prompts)." if found else ""


def reward_tables(quality: Mapping[str, Any], people: str) -> list[dict[str, Any]]:
    """Accuracy by labeler group and the figures of calibration and length bias."""
    if not quality:
        return []
    rows = [
        [group, number(row["value"]), interval_text(row), str(row["n"])]
        for group, row in quality["accuracy"].items()
    ]
    found = [_table(f"Accuracy on held-out rankings {people}", ["accuracy", "interval", "pairs"], rows)]
    figures = [
        ["expected calibration error", f"{quality['calibration']['ece']:.3f}", ""],
        ["Brier score (a coin: 0.25)", f"{quality['calibration']['brier']:.3f}", ""],
    ]
    for key, words in (
        ("model", "the model prefers the longer text"),
        ("labelers", "labelers prefer the longer text"),
        ("difference", "difference"),
        ("shorter_right", "right where labelers prefer the shorter"),
    ):
        row = (quality["length_bias"] or {}).get(key)
        if row:
            figures.append([words, number(row["value"]), interval_text(row)])
    if quality["agreement"]:
        pairs = quality["agreement"]
        low, high = quality["ceiling"]
        figures.append([f"two labelers agree ({pairs['pairs']} pairs)", number(pairs["value"]), ""])
        figures.append(["so the best model would reach", interval_text({"low": low, "high": high}), ""])
    found.append(_table("Calibration, length bias, ceiling", ["", "interval"], figures))
    return found


def _table(caption: str, columns: Sequence[str], rows: list[list[str]], corner: str = "") -> dict[str, Any]:
    return {"caption": caption, "corner": corner, "columns": list(columns), "rows": rows}


def _span(ends: Sequence[float]) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}"


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


def tables(values: Mapping[str, Any], caption: str) -> list[dict[str, Any]]:
    """Metrics as tables to show: single numbers in one, and one for each group of groups.

    Returns:
        tables with `caption`, `columns` (empty for single numbers) and `rows` of text, the row's name first.
    """
    single = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    shown: list[dict[str, Any]] = []
    if single:
        rows = [[_words(key), _text(value)] for key, value in single.items()]
        shown.append(_table(caption, [], rows))
    nested = {key: row for key, row in values.items() if isinstance(row, Mapping)}
    flat = {key: row for key, row in nested.items() if not any(isinstance(v, Mapping) for v in row.values())}
    if flat:
        columns = list(dict.fromkeys(column for row in flat.values() for column in row))
        rows = [[_words(key), *(_text(row.get(c, "")) for c in columns)] for key, row in flat.items()]
        shown.append(_table(caption, [_words(column) for column in columns], rows))
    for key, value in nested.items():
        if key not in flat:
            shown += tables(value, f"{caption}: {_words(key)}")
    return shown


def _words(key: str) -> str:
    return key.replace("_", " ")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
