"""Data Docs in which no text of a row is markup: Great Expectations 1.24 escapes only some of its texts."""

from __future__ import annotations

import html
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
