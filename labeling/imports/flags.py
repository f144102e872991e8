"""The flags that say what the columns of a file do not: those of `import` and of `items add`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from rlhf.data.errors import DataError
from rlhf.data.layouts.layout import Options

# How these commands call what params call `ingest.*`.
FLAGS = {
    "words": "--word",
    "edit": "--edit",
    "prompt": "--prompt-field",
    "outputs": "--output-fields",
    "layout": "--layout",
    "direction": "--direction",
    "aspects": "--aspect",
    "columns": "--column",
    "keep": "--keep",
}


def add_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags to a command."""
    add = partial(command.add_argument, action="append", default=[])  # each may be said several times
    command.add_argument("--layout", help="the file's layout, where several fit")
    command.add_argument("--prompt-field", help='the field that is the prompt, or a text such as "{a} {b}"')
    command.add_argument(
        "--output-fields", "--output-field", default="", help="the fields that are outputs, with commas"
    )
    command.add_argument("--edit", metavar="QUESTION", help="the question whose free text edits an output")
    command.add_argument("--direction", choices=("lower", "higher"), help="the numbers that are better")
    add(
        "--word",
        "--words",
        metavar="VALUE=MEANING",
        help="first, second, tie, both_bad, skip, or an output's field",
    )
    add("--aspect", "--aspects", metavar="NAME[=WEIGHT]", help="a rating, or the one question, that counts")
    add(
        "--column",
        "--columns",
        metavar="NAME=COLUMN",
        help="a column of a contract and the file's, such as prompt=q",
    )
    add("--keep", metavar="COLUMN", help="a column that no contract knows and that is kept")


def reading_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags say, as `read_labels` and `read_candidates` take it.

    Raises:
        DataError: a flag that should say NAME=VALUE does not, or a weight is no number.
    """
    weights = {}
    for said in arguments.aspect:
        name, _, weight = said.partition("=")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise DataError(f"--aspect {said}: {weight!r} is no number; write {name}=1") from None
    options = Options(
        direction=arguments.direction,
        aspects=weights,
        words=_pairs("--word", arguments.word),
        prompt=arguments.prompt_field,
        outputs=tuple(filter(None, arguments.output_fields.split(","))),
        edit=arguments.edit,
        keep=arguments.keep,
    )
    return {
        "options": options,
        "layout": arguments.layout,
        "columns": _pairs("--column", arguments.column, last=False),
    }


def by_flags(line: str) -> str:
    """A line about `ingest.*` in the words of these commands."""
    line = re.sub(r"ingest\.words, such as \{(['\"])(.*?)\1: (\w+)\}", r"--word '\2=\3'", line)
    line = re.sub(r"ingest\.(edit|layout): ", lambda match: FLAGS[match[1]] + " ", line)
    return re.sub(r"\bingest\.(\w+)", lambda match: FLAGS.get(match[1], match[0]), line)


def _pairs(flag: str, said: Sequence[str], last: bool = True) -> dict[str, str]:
    """NAME=VALUE as a mapping; the last `=` parts them, or the first."""
    pairs = {}
    for pair in said:
        name, equals, value = pair.rpartition("=") if last else pair.partition("=")
        if not equals:
            raise DataError(f"{flag} {pair}: write it as NAME=VALUE")
        pairs[name] = value
    return pairs
