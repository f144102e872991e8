"""The report of an evaluation: one self-contained page, and the same table for the terminal.

The page loads nothing from outside and runs no script; texts of data and models are escaped. The same inputs
give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.figures import CURVES, INK, LABELS
from rlhf.judges import KINDS

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def verdict(evaluation: Mapping[str, Any], policy: str = "ppo") -> str:
    """One sentence: the rate, its interval, n and judge, and whether the interval lies above one half.

    Args:
        evaluation: what stands in metrics/evaluation.json.
        policy: the policy that the sentence is about.
    """
    row, label = evaluation["policies"][policy], LABELS.get(policy, policy)
    if row["low"] > 0.5:
        finding = "the interval lies above one half"
    elif row["high"] < 0.5:
        finding = "the interval lies below one half"
    else:
        finding = "the interval includes one half, so no difference is shown"
    return (
        f"{label} is preferred to the reference on {percent(row['rate'])} of {evaluation['n']} "
        f"held-out prompts ({percent(evaluation['confidence'], 0)} interval {interval(row)}, "
        f"{judge_words(evaluation)}): {finding}.{hacking_words(evaluation)}{stop_words(evaluation)}"
    )


def hacking_words(evaluation: Mapping[str, Any]) -> str:
    """A sentence on reward hacking where it was found, nothing where it was not."""
    found = (evaluation.get("overoptimisation") or {}).get("hacking")
    if not found or not found["found"]:
        return ""
    return (
        f" Reward hacking: from update {found['before']} to {found['after']} of PPO the preference fell by "
        f"{100 * found['fall']:.1f} points while the reward rose."
    )


def stop_words(evaluation: Mapping[str, Any]) -> str:
    """A sentence on a run that the held-out judge stopped, nothing on others."""
    found = evaluation.get("held_out")
    if not found or found["stopped"] is None:
        return ""
    return (
        f" The held-out judge stopped PPO after update {found['stopped']}; the weights after update "
        f"{found['kept']} are the policy."
    )


def judge_words(evaluation: Mapping[str, Any]) -> str:
    """What judged, in words that do not pass a model or a simulation off as people."""
    return KINDS[evaluation["judge"]["kind"]]


def percent(share: float, digits: int = 1) -> str:
    """0.613 -> `61.3 %`, with a space that does not break."""
    return f"{100 * share:.{digits}f}\u00a0%"


def interval(row: Mapping[str, Any]) -> str:
    """`58.3 to 64.2 %`."""
    return f"{100 * row['low']:.1f} to {percent(row['high'])}"


def print_table(evaluation: Mapping[str, Any]) -> None:
    """Print the table of policies and the verdict to the terminal."""
    from rich.console import Console
    from rich.table import Table

    confidence = percent(evaluation["confidence"], 0)
    table = Table(title=f"Preferred to the reference: n = {evaluation['n']}, {judge_words(evaluation)}")
    for heading in ("policy", "preferred", f"{confidence} interval", "ties", "words", "KL to SFT"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for name, row in evaluation["policies"].items():
        table.add_row(
            LABELS.get(name, name),
            percent(row["rate"]),
            interval(row),
            str(row["ties"]),
            f"{row['mean_length']:.1f}",
            f"{row['kl']:.2f}",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(verdict(evaluation), soft_wrap=True)


def render_report(
    evaluation: Mapping[str, Any],
    figures: Mapping[str, str],
    samples: Sequence[Mapping[str, Any]],
    *,
    stage_key: str,
    inputs: Mapping[str, str],
    params: Mapping[str, Any],
    commit: str = "",
    reward: Mapping[str, Any] | None = None,
    rankings: Mapping[str, Any] | None = None,
) -> str:
    """The report as HTML.

    Args:
        evaluation: what stands in metrics/evaluation.json.
        figures: name -> SVG; `preferred-to-reference` and any others.
        samples: rows with `place`, `prompt`, `reference`, `outputs` (policy -> text), `preferred`, `margin`.
        stage_key: hash of the evaluation's code, parameters and inputs.
        inputs: path -> hash.
        params: parameter -> value; `collect.labelers` says who ranked.
        commit: of git; empty outside of it.
        reward, rankings: metrics of the stages reward and collect, whatever they hold.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rlhf", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    helpers = {"percent": percent, "interval": interval, "points": _points}
    environment.globals.update(helpers, p_words=p_words, inline=inline_svg, visible=visible)
    policies = evaluation["policies"]
    ppo = policies["ppo"]
    people = "by simulated labelers" if params.get("collect.labelers") == "simulated" else "given"
    quality = (reward or {}).get("quality") or {}
    rest = {key: value for key, value in (reward or {}).items() if key != "quality"}
    return environment.get_template("report.html.j2").render(
        evaluation=evaluation,
        verdict=verdict(evaluation),
        short_verdict=f"{percent(ppo['rate'])} preferred to the reference",
        judge_words=judge_words(evaluation),
        labels=LABELS,
        labelers=params.get("collect.labelers"),
        figures=figures,
        curves={name: svg for name, svg in figures.items() if name in CURVES},
        figure_words="; ".join(f"{LABELS.get(k, k)} {percent(v['rate'])}" for k, v in policies.items()),
        quality={"reference": evaluation["reference"]} | policies,
        judges=judge_tables(evaluation),
        slices=slice_tables(evaluation),
        safety=safety_table(evaluation),
        looks=look_table(evaluation),
        hacking=(evaluation.get("overoptimisation") or {}).get("hacking"),
        held_out=held_out_words(evaluation),
        reward_tables=reward_tables(quality, people),
        samples=samples,
        numbers=tables(rest, f"Reward model, held-out rankings {people}")
        + tables(rankings or {}, f"Rankings {people}"),
        stage_key=stage_key,
        commit=commit,
        inputs=inputs,
        params=params,
    )


def judge_tables(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every judge's rates, raw and at equal length; and the judges' agreement, where there are several."""
    shown, agree, powered = [], [], []
    for name, judge in evaluation.get("judges", {}).items():
        for policy, row in judge["policies"].items():
            level, label = row["length_controlled"], LABELS.get(policy, policy)
            shown.append(
                [
                    f"{label}, {name}",
                    percent(row["rate"]),
                    interval(row),
                    percent(level["rate"]),
                    interval(level),
                    str(row["n"]),
                    KINDS[judge["kind"]],
                ]
            )
        for other, found in judge.get("agreement", {}).items():
            if found:
                low, high = found["raw_interval"]
                same = interval({"low": low, "high": high})
                agree.append([f"{name} with {other}", percent(found["raw"]), same])
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
                    percent(row["rate"]),
                    interval(row),
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
        found.append(_table("People's rate over all prompts, a model helping", columns, powered))
    return found


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
                    percent(row["rate"]),
                    interval(row),
                    str(row["n"]),
                    _points(row["difference"]),
                    p_words(row["p_value"]) + (", fell" if row["fell"] else ""),
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
        + [percent(row[what]["share"]) for what in ("banned", "personal_data", "repetitive", "empty")]
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
        [name, f"{look['kl']:.2f}", f"{look['score']:+.2f}", percent(look["rate"]), interval(look)]
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
        [group, percent(row["value"]), interval(row), str(row["n"])]
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
            figures.append([words, percent(row["value"]), interval(row)])
    if quality["agreement"]:
        pairs = quality["agreement"]
        low, high = quality["ceiling"]
        figures.append([f"two labelers agree ({pairs['pairs']} pairs)", percent(pairs["value"]), ""])
        figures.append(["so the best model would reach", f"{100 * low:.1f} to {percent(high)}", ""])
    found.append(_table("Calibration, length bias, ceiling", ["", "interval"], figures))
    return found


def p_words(value: float) -> str:
    """A p value as text."""
    return "< 0.0001" if value < 0.0001 else "1" if value >= 0.99995 else f"{value:.4f}"


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


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


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


def write_figures(folder: Path, figures: Mapping[str, str]) -> None:
    """Write figures as `<name>.svg` into a folder."""
    folder.mkdir(parents=True)
    for name, svg in figures.items():
        (folder / f"{name}.svg").write_text(svg)
