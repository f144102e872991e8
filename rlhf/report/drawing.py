"""How every chart is drawn: plain axes, a colour for each policy, SVG text of the same bytes on any day."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

INK = "#24292f"  # text and axes; a page that embeds a chart may put its own colour here
COLOURS = {"pretrained": "#8c8c8c", "sft": "#3d85c6", "ppo": "#d5690d"}


def axes_of(width: float, height: float) -> tuple[Any, Any]:
    """A matplotlib Figure with one plain pair of axes. No pyplot: nothing global is touched.

    Args:
        width, height: in inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=11)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=INK, size=11)
    return figure, axes


def svg_text(figure: Any) -> str:
    """A matplotlib Figure as SVG whose texts stay texts."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "rlhf", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def write_charts(folder: Path, charts: Mapping[str, str]) -> None:
    """Write charts (name -> SVG) as `<name>.svg` into a new folder."""
    folder.mkdir(parents=True)
    for name, svg in charts.items():
        (folder / f"{name}.svg").write_text(svg)
