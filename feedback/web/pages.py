"""Rendering pages: everything is escaped, nothing is missing silently."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from feedback.people import User

KIND_NAMES = {
    "compare": "Compare two outputs",
    "rank": "Rank outputs",
    "vote": "Vote up or down",
    "edit": "Edit an output",
    "judge": "Output against human reference",
    "ask": "Answers of the served model",
}

_environment = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)


def static(name: str) -> str:
    """The address of a static file, which changes with its content."""
    content = (Path(__file__).parent / "static" / name).read_bytes()
    return f"/static/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"


_environment.filters["day"] = lambda seconds: time.strftime("%Y-%m-%d", time.gmtime(seconds))
_environment.filters["when"] = lambda seconds: time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
_environment.filters["rate"] = lambda value: "–" if value is None else f"{value:.2f}"


def saying(answer: Mapping[str, Any]) -> str:
    """A stored answer in words."""
    if "ranking" in answer:
        ranks = ", ".join("–" if rank is None else str(rank) for rank in answer["ranking"])
        return "both bad" if answer.get("both_bad") else f"ranks {ranks}"
    return " ".join(str(value) for value in answer.values())[:200]


_environment.filters["saying"] = saying
_environment.globals.update(kind_names=KIND_NAMES, letters="ABCDEFGHI")
_environment.globals["scale"] = Markup(
    _environment.get_template("scale.html").render()
)  # the same on each page
_environment.globals["static"] = {name: static(name) for name in ("style.css", "keys.js", "icon.svg")}


# now, and not by every thread that has the first requests
for _name in _environment.list_templates():
    _environment.get_template(_name)


def page(
    template: str,
    user: User | None,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **values: Any,
) -> HTMLResponse:
    """A page. `title` is among the values; templates see `user`, None on public pages."""
    html = _environment.get_template(template).render(user=user, **values)
    return HTMLResponse(html, status, headers)
