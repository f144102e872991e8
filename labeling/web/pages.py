"""Rendering pages: every text is escaped, and a value that a template misses is an error."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from labeling.answers import SCALE
from labeling.people import User
from labeling.standing import MOST_LEFT
from labeling.web.turns import turns
from rlhf.data.conversations import speaker

KIND_NAMES = {
    "compare": "Compare two outputs",
    "rank": "Rank outputs",
    "vote": "Vote up or down",
    "edit": "Edit an output",
    "judge": "Output against human reference",
    "ask": "Answers of the served model",
}
LETTERS = "ABCDEFGHI"
PLACES = (  # title of the page, path
    ("My work", "/"),
    ("My labels", "/history"),
    ("Ask the model", "/ask"),
    ("Projects", "/operate"),
    ("People", "/operate/people"),
    ("Agreement", "/operate/agreement"),
    ("Flags", "/operate/flags"),
    ("Audit", "/operate/audit"),
)

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
_environment.filters["seconds"] = lambda value: "–" if value is None else f"{value:.1f} s"


def rate(value: float | None, n: int = 0) -> str:
    """A share, 0 to 1, and of how many, where that is known.

    Two decimals are enough for the tens of labels that a labeler has. The report's figures have three, by
    `rlhf.measures.display`, which `labeling` must not import.
    """
    if value is None:
        return "–"
    return f"{value:.2f}" + (Markup(" <small>n = {}</small>").format(n) if n else "")


def sentence(text: str) -> str:
    """A message with a capital letter, unless it begins with a name (`x.jsonl: ...`), and a full stop."""
    start = text[:1].upper() if text.split(" ")[0].isalpha() else text[:1]
    return start + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def shown(label: Any) -> str:
    """A row of `labels` as the labeler saw their answer on the screen, with its remark."""
    text = label.status
    if text == "given":
        text = _chosen(label.kind, label.answer, label.shown_order, label.strength)
    return f"{text}: {label.note}" if label.note else text


def _chosen(kind: str, answer: Mapping[str, Any], order: Sequence[int], strength: int | None) -> str:
    if kind == "vote":
        return "good" if answer["vote"] == "up" else "bad"
    if kind == "edit":
        return f"edited: {answer['text'][:200]}"
    if kind == "judge":
        ranking = {"output": [1, 2], "reference": [2, 1], "tie": [1, 1]}[answer["preferred"]]
    else:
        ranking = answer["ranking"]
    ranks = [ranking[index] for index in order or range(len(ranking))]
    if kind == "rank" or len(ranks) != 2:
        return ", ".join(f"{letter} {rank or '–'}" for letter, rank in zip(LETTERS, ranks, strict=False))
    if ranks[0] == ranks[1]:
        return "both bad" if answer.get("both_bad") else "no difference"
    side = "left" if ranks[0] < ranks[1] else "right"
    return f"{side} better" + (f", strength {strength} of {SCALE}" if strength else "")


_environment.filters.update(rate=rate, sentence=sentence, shown=shown, speaker=speaker)
_environment.globals.update(kind_names=KIND_NAMES, letters=LETTERS, places=PLACES, most_left=MOST_LEFT)
_environment.globals["turns"] = turns
# The scale is the same on each page, so it is rendered once.
_environment.globals["scale"] = Markup(_environment.get_template("scale.html").render())  # noqa: S704 (ours)
_environment.globals["static"] = {name: static(name) for name in ("style.css", "keys.js", "icon.svg")}


# Templates are compiled now, and not by every thread that has one of the first requests.
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
