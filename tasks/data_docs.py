"""Data Docs that open anywhere: no text of a row is markup, nothing comes from other hosts, no script runs.

Great Expectations 1.24 escapes only some of its texts, and its pages get their style, their icons and the
whole table of their index from other hosts.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from great_expectations.render.view import DefaultJinjaPageView
from jinja2 import pass_context


class EscapedPageView(DefaultJinjaPageView):
    """A page of the Data Docs. Values of rows come as plain texts, which the library passes on raw."""

    @pass_context
    def render_content_block(self, context: Any, content_block: Any, *args: Any, **kwargs: Any) -> Any:
        """A block as HTML: a plain text escaped, everything else as the library does it."""
        if isinstance(content_block, str):
            return html.escape(content_block)
        if isinstance(content_block, list):
            content_block = [html.escape(part) if isinstance(part, str) else part for part in content_block]
        return super().render_content_block(context, content_block, *args, **kwargs)


VIEW = {"module_name": EscapedPageView.__module__, "class_name": EscapedPageView.__name__}
SECTIONS = {section: {"view": VIEW} for section in ("validations", "expectations", "profiling")}

# What other hosts or scripts would do: the style of Bootstrap's classes, the icons, buttons that filter.
_DROPPED = re.compile(
    r"<script.*?</script>|<style.*?</style>|<footer.*?</footer>|<link[^>]*https?://[^>]*>|<img[^>]*https?://[^>]*>"
    r"|<button.*?</button>|<label class=\"btn.*?</label>| onclick=\"[^\"]*\""
    r"|<strong>Actions</strong>|Validation Filter:",
    re.DOTALL,
)
_STYLE = """<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 75rem; padding: 0 1rem 3rem; }
.row { display: block; } .sticky, .sticky-top { position: static; } nav.navbar { height: auto !important; }
ol, ul { padding-left: 1.1rem; } .ge-breadcrumbs { list-style: none; padding: 0; }
.card { max-height: none !important; } .card-body, #navigation, .nav { max-height: none !important; }
#navigation ul { columns: 12rem; list-style: none; padding: 0; }
.alert { border-top: 1px solid #8886; margin-top: 1.5rem; padding-top: .5rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
td, th { border-bottom: 1px solid #8883; padding: .25rem .8rem .25rem 0; text-align: left; }
td, th { vertical-align: top; }
td:last-child { min-width: 9rem; } td, span, a { overflow-wrap: anywhere; }
h5, h6 { font-size: 1rem; margin: .2rem 0; }
.text-success { color: #1a7f37; } .text-danger { color: #c92a2a; } .modal, .btn, [hidden] { display: none; }
.fa-check-circle::before { content: "✓ "; font-style: normal; }
.fa-times::before, .fa-exclamation-triangle::before { content: "✗ "; font-style: normal; }
a[data-toggle] { display: none; }
</style>"""


def make_self_contained(docs: Path) -> None:
    """Rewrite the pages of a site so that they load nothing and run nothing, and write the index anew."""
    for page in docs.rglob("*.html"):
        text = _DROPPED.sub("", page.read_text())
        page.write_text(text.replace("</head>", f"{_STYLE}</head>", 1))
    rows = [_index_row(page, docs) for page in sorted(docs.glob("validations/*/*/*/*.html"))]
    rows += [
        f'<li><a href="{page.relative_to(docs)}">the rules of {page.stem}</a></li>'
        for page in sorted(docs.glob("expectations/*.html"))
    ]
    (docs / "index.html").write_text(
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Data Docs</title>'
        f"{_STYLE}</head><body><h1>Data Docs</h1><ul>{''.join(rows)}</ul></body></html>\n"
    )


def _index_row(page: Path, docs: Path) -> str:
    failed = "fas fa-times text-danger" in page.read_text()
    outcome = '<i class="fa-times text-danger"></i> breaks a rule' if failed else ""
    outcome = outcome or '<i class="fa-check-circle text-success"></i> meets every rule'
    table = page.parts[len(docs.parts) + 1]
    return f'<li><a href="{page.relative_to(docs)}">{table}</a> {outcome}</li>'
