"""Markdown for Prefect, MLflow and the Hub, in which nothing that comes from outside is markup.

Names of runs, texts of rows and what a model wrote could otherwise become pictures that tell a host who looks
at them, links that lead elsewhere, or rows of a table that nobody wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rlhf.report.templates import visible

_MARKUP = {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {char: f"\\{char}" for char in "\\`*_[]#!|~$"}
_ADDRESS = re.compile(r"://|\bwww\.", re.IGNORECASE)  # becomes a link by itself


def plain(text: Any) -> str:
    """Text in one line that Markdown and the HTML in it leave as it is."""
    escaped = "".join(_MARKUP.get(char, char) for char in " ".join(visible(str(text)).split()))
    return _ADDRESS.sub(lambda found: found[0].replace(":", "\\:").replace(".", "\\."), escaped)


def bullets(lines: Iterable[Any]) -> str:
    """A list, an item for each line."""
    return "\n".join(f"- {plain(line)}" for line in lines)


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A table, a line for each row."""
    cells = [header, *rows]
    lines = ["| " + " | ".join(map(plain, row)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def fenced(lines: Iterable[str]) -> str:
    """Lines as they are, in a block of code whose fence is longer than any in them."""
    text = "\n".join(lines)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
