"""How pages are made from templates: self-contained, styled alike, numbers written one way, texts escaped."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from rlhf.data.conversations import ROLES, speaker
from rlhf.measures import display
from rlhf.report.drawing import INK

if TYPE_CHECKING:
    from jinja2 import Template

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_NUMBERS = ("number", "signed", "interval_text", "rate_text", "difference_text", "p_text", "level_text")


def page_template(package: str, name: str) -> Template:
    """A template of a package; it can include `templates.css.j2` and write numbers, texts and charts."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("rlhf.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    environment.globals.update({function: getattr(display, function) for function in _NUMBERS})
    environment.globals.update(inline=inline_svg, visible=visible, speaker=speaker, look=look)
    return environment.get_template(name)


def inline_svg(svg: str, name: str, description: str) -> Any:
    """A chart for a page: it takes the page's colours and font, scales, and has ids of its own.

    Args:
        svg: as `rlhf.report.drawing.svg_text` writes it.
        name: begins every id; no two charts of a page share it.
        description: what a screen reader says.
    """
    from markupsafe import Markup, escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"""font-family: [^;"]+;? ?""", "", svg)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor").replace("fill: #ffffff", "fill: none")
    label = f'<svg role="img" aria-label="{escape(description)}" '
    svg = re.sub(r' width="[^"]*" height="[^"]*"', "", svg, count=1)
    return Markup(svg.replace("<svg ", label, 1))  # noqa: S704 (drawn by matplotlib, which escapes texts)


def look(role: str) -> str:
    """The style of a turn: that of its role, or of others where nobody knows it."""
    return role if role in ROLES else "other"


def visible(text: str) -> str:
    """Text with control and direction-override characters as U+FFFD; the template escapes the rest."""
    return _CONTROL.sub("\ufffd", text.strip())
