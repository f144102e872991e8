"""Nothing that comes from outside is markup in Markdown: what a common renderer makes of it is text."""

from __future__ import annotations

import re

import pytest
from report_page import HOSTILE, Page

from rlhf.report.markdown import bullets, fenced, plain, table

markdown_it = pytest.importorskip("markdown_it")

TEXTS = [
    HOSTILE,
    "![x](https://evil.example/pixel.png)",
    "[click](javascript:alert(1)) and <https://evil.example>",
    "[click]: https://evil.example",
    "https://evil.example www.evil.example WWW.evil.example",
    "a | b | c\n| d | e |\n\n# Heading",
    "`code` ```\nfence\n``` **bold** __bold__ ~~gone~~ $x$ &lt;b&gt;",
    "\\[x\\](y) \\<b>",
    "tab\there\x1b[31m \u202e",
]


def rendered(markdown: str) -> Page:
    """The page of a renderer that knows tables, links written out, and HTML."""
    renderer = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return Page(renderer.render(markdown))


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_text_is_only_text(text: str) -> None:
    shown = " ".join(re.sub("[\x00-\x08\x0e-\x1f\u202e]", "\ufffd", text).split())
    page = rendered(table(["who", "said"], [[text, "x"], ["y", text]]))
    assert {tag for tag, _ in page.tags} <= {"table", "thead", "tbody", "tr", "th", "td"}
    assert [tag for tag, _ in page.tags].count("tr") == 3
    assert page.text.split() == ["who", "said", *shown.split(), "x", "y", *shown.split()]
    page = rendered(bullets([f"it said {text}", "more"]))
    assert [tag for tag, _ in page.tags] == ["ul", "li", "li"]
    page = rendered(fenced(["before", text, "after"]))
    assert {tag for tag, _ in page.tags} == {"pre", "code"}


def test_an_address_is_no_link() -> None:
    assert not re.search(r"(?i)https?://|www\.", plain("https://x.example HTTP://y www.z.example"))
