"""A comparison of runs as people see it: a table, Markdown for Prefect, one self-contained page.

The page loads nothing and runs no script: its filter is radio buttons and CSS. What models wrote is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.measures.display import (
    MISSING,
    cost_text,
    difference_text,
    interval_text,
    number,
    p_text,
    signed,
)
from rlhf.report.markdown import bullets, table
from rlhf.report.templates import page_template

Result = Mapping[str, Any]  # of rlhf.measures.comparison.compare_runs


def comparison_page(result: Result) -> str:
    """The page as HTML."""
    low = min(0.5, *(run["low"] for run in result["runs"]))
    high = max(0.5, *(run["high"] for run in result["runs"]))
    scale = (math.floor(10 * low) / 10, math.ceil(10 * high) / 10)

    def place(rate: float, from_right: bool = False) -> str:
        """Where a rate stands on the scale, in percent of its width."""
        share = (rate - scale[0]) / max(scale[1] - scale[0], 0.1)
        return f"{100 * (1 - share if from_right else share):.1f}"

    best, (slice_header, slice_rows) = result["runs"][0]["name"], slice_table(result)
    return page_template("flows", "compare.html.j2").render(
        result,
        cost=run_cost,
        promoted=promoted_text,
        place=place,
        scale=scale,
        names=[run["name"] for run in result["runs"]],
        pair_header=pair_header(),
        pair_rows=[pair_row(pair) for pair in result["pairs"] if pair["first"] == best],
        all_rows=[pair_row(pair) for pair in result["pairs"]],
        slice_header=slice_header,
        slice_rows=slice_rows,
        param_rows=difference_table(result, "params")[1],
        data_rows=difference_table(result, "data")[1],
    )


def comparison_markdown(result: Result) -> str:
    """Verdict and tables as Markdown, for the Prefect artifact."""
    parts = [bullets((*result["verdict"], *result["warnings"]))]
    parts.append(_markdown_table(*run_table(result)))
    parts.append(_markdown_table(*pair_table(result)))
    for title, (header, rows) in {
        "Slices that moved": slice_table(result),
        "Parameters that differ": difference_table(result, "params"),
        "Data that differ": difference_table(result, "data"),
    }.items():
        if rows:
            parts.append(f"**{title}**\n\n{_markdown_table(header, rows)}")
    return "\n\n".join(part for part in parts if part)


def print_comparison(result: Result) -> None:
    """Print verdict and tables to the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    tables = {
        "Runs, the best first": run_table(result),
        "Pairs on the same prompts": pair_table(result),
        "Slices that moved": slice_table(result),
        "Parameters that differ": difference_table(result, "params"),
        "Data that differ": difference_table(result, "data"),
    }
    for line in result["verdict"]:
        console.print(line, markup=False)
    for line in result["warnings"]:
        console.print(f"warning: {line}", markup=False)
    for title, (header, rows) in tables.items():
        if rows:
            shown = Table(*header, box=box.SIMPLE_HEAD, title=title, title_justify="left")
            for row in rows:
                shown.add_row(*map(_no_markup, row))
            console.print(shown)


def run_table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a row for each run, the best first."""
    header = ["run", "differs in", "preferred", "interval", "n", "judge", "KL", "words", "promoted", "cost"]
    rows = [
        [
            run["name"],
            ", ".join(run["differs"]) or MISSING,
            number(run["rate"]),
            interval_text(run),
            str(run["n"]),
            run["judge"],
            number(run["kl"], 2),
            number(run["mean_length"], 1),
            promoted_text(run),
            run_cost(run),
        ]
        for run in result["runs"]
    ]
    return header, rows


def pair_table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the best run against each other run."""
    best = result["runs"][0]["name"]
    return pair_header(), [pair_row(pair) for pair in result["pairs"] if pair["first"] == best]


def pair_header() -> list[str]:
    """The columns of `pair_row`."""
    return ["pair", "difference", "better", "worse", "n", "p", "adjusted p", "sure"]


def pair_row(pair: Mapping[str, Any]) -> list[str]:
    """A pair of runs on the prompts that both were judged on."""
    sure = "the same policy" if pair["same"] else "yes" if pair["sure"] else "no"
    counts = [str(pair[key]) for key in ("better", "worse", "n")]
    p_values = [p_text(pair[key]) for key in ("p_value", "p_holm")]
    return [f"{pair['first']} − {pair['second']}", difference_text(pair), *counts, *p_values, sure]


def slice_table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Header and rows: slices in which a run certainly differs from the best run."""
    header = ["slice", "run", "rate", "best's", "difference", "n", "p"]
    rows = [
        [
            f"{row['kind']} {row['slice']}",
            row["run"],
            number(row["rate"]),
            number(row["other"]),
            signed(row["difference"]),
            str(row["n"]),
            p_text(row["p_value"]),
        ]
        for row in result["slices"]
    ]
    return header, rows


def difference_table(result: Result, what: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows: keys of `params` or `data` whose values differ, a column for each run."""
    names = [run["name"] for run in result["runs"]]
    header = ["", *names]
    return header, [
        [row["key"], *(MISSING if row["values"][n] is None else str(row["values"][n])[:40] for n in names)]
        for row in result[what]
    ]


def promoted_text(run: Mapping[str, Any]) -> str:
    """Whether a run was promoted; a dash where it never came to the gate."""
    return MISSING if run["promoted"] is None else "yes" if run["promoted"] else "no"


def run_cost(run: Mapping[str, Any]) -> str:
    """What a run cost; a dash where nobody measured it."""
    return MISSING if run["seconds"] is None else cost_text(run["seconds"], run["memory_mb"])


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table(header, rows) if rows else ""


def _no_markup(text: str) -> str:
    from rich.markup import escape

    return escape(text)
