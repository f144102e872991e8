"""YAML that people write, as values, in time and memory that grow with the text and not faster.

PyYAML's own loader takes more: aliases that expand a few lines to gigabytes, a key twice of which the last
wins, and values that it recognises and then cannot make, such as 2026-13-45, which end in errors of any kind.
It also reads 1e-3 as a text, which is a number in YAML 1.2 and to DVC.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from rlhf.settings.section import shown

DEEPEST = 50  # lists and mappings within each other
LONGEST = 300  # characters of an error
LONGEST_NUMBER = 400  # characters; the largest float has 309 digits
_KIND = re.compile(r".*:")
_FLOAT = re.compile(r"^[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")


class YamlError(ValueError):
    """A text that is no YAML, or that says what is refused; one line, which names neither file nor key."""


def yaml_value(text: str | bytes) -> Any:
    """The value of a YAML text; None where it is empty.

    Raises:
        YamlError: it is no YAML, holds an alias, a key twice, a tag that is not YAML's own, too many lists
            within lists, or what is no number or date although it is spelled like one.
    """
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark is not None else ""
        told = " ".join(filter(None, (error.context, error.problem))).replace("\n", "\\n")
        raise YamlError(f"{place}{told}"[:LONGEST]) from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise YamlError(" ".join(str(error).split())[:LONGEST]) from None


class _Loader(yaml.SafeLoader):
    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise _refused(f"*{event.anchor} is an alias; write out what it stands for", event.start_mark)
        if self._depth == DEEPEST:
            mark = self.peek_event().start_mark
            raise _refused(f"more than {DEEPEST} lists or mappings within each other", mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        kind = _KIND.sub("", node.tag)
        if (
            isinstance(node, yaml.ScalarNode)
            and kind in ("int", "float")
            and len(node.value) > LONGEST_NUMBER
        ):
            raise _refused(f"{shown(node.value)} is too long a number", node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            told = f"{shown(node.value)} is no {kind}; quote it where it is a text"
            raise _refused(told, node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    raise _refused(
                        f"the key {shown(key.value)} stands twice; keep one of the two", key.start_mark
                    )
                keys.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _refused(told: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, told, mark)
