"""The source of a chat template: what it reads, and how its date is made to stand still."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension, loopcontrols

from rlhf.data.errors import DataError

TODAY = "2024-07-26"  # the date that templates get which ask for today's, unless `today` says another

# What every template may read; none of it is an argument of the settings.
_NOT_ARGUMENTS = {"messages", "add_generation_prompt", "raise_exception", "strftime_now", "namespace", "dict"}
_NOT_ARGUMENTS |= {"bos_token", "eos_token", "pad_token", "unk_token"}


class _Generation(Extension):
    """The tag with which a template marks what an assistant wrote; here its body is read as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def settled(source: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A template that does not read the clock, and what it is called with.

    Args:
        arguments: of the template, and `today` (ISO date) for one that asks for the date.

    Raises:
        DataError: the template is no Jinja, never reads an argument, or no date is in `today`.
    """
    try:
        tree = Environment(extensions=[_Generation, loopcontrols]).parse(source)  # noqa: S701 (read, not run)
    except TemplateSyntaxError as error:
        raise DataError(
            f"the chat template is no Jinja template: line {error.lineno}: {error.message}"
        ) from None
    names = _read_by(tree)
    for name in arguments:
        if name not in names:
            reads = f"it reads {', '.join(sorted(names))}" if names else "it reads none"
            raise DataError(f"the chat template never reads the template argument {name!r}; {reads}")
    clock = "today" in names
    more = {name: value for name, value in arguments.items() if name != "today"}
    return (_dated(source, tree, arguments.get("today", TODAY)) if clock else source), more


def _read_by(tree: nodes.Template) -> set[str]:
    """The arguments that a template reads: names that it never sets, or sets only where they are missing."""
    free = meta.find_undeclared_variables(tree)
    own = {name.name: name.ctx for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    asked: set[str] = set()
    for part in tree.find_all((nodes.Test, nodes.Filter)):
        if part.name in ("defined", "undefined", "default", "d") and isinstance(part.node, nodes.Name):
            asked.add(part.node.name)
    asked = {name for name in asked if own.get(name) == "store" and name in free}
    names = (free - own.keys()) | asked
    if "strftime_now" in names:
        names.add("today")
    return names - _NOT_ARGUMENTS


def _dated(source: str, tree: nodes.Template, today: Any) -> str:
    """A template in front of which a macro stands that answers for the clock."""
    try:
        date = datetime.date.fromisoformat(str(today))
    except ValueError:
        raise DataError(f"template argument today: {today!r} is no date; write 2024-07-26") from None
    dates = {}
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name == "strftime_now":
            form = call.args[0] if call.args else None
            if not isinstance(form, nodes.Const):
                raise DataError(
                    "the chat template asks for the date in a form that it computes; write it out"
                )
            dates[form.value] = date.strftime(form.value)
    return f"{{%- macro strftime_now(form) -%}}{{{{ {dates!r}[form] }}}}{{%- endmacro +%}}" + source
