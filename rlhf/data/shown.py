"""Values and lines as messages show them: on one line, and never longer than a person reads.

Messages quote what people bring, and that may be a number of a thousand digits, a list of a million items or
a name with line breaks in it. Our errors for bad input go through here, so that no message grows with its
input.
"""

from __future__ import annotations

from typing import Any

VALUE = 60  # characters of a value
LINE = 1500  # characters of a whole message


def shown(value: Any, most: int = VALUE) -> str:
    """A value in ASCII, as Python spells it, cut behind `most` characters.

    >>> shown("né"), shown([1] * 99, 10)
    ("'n\\\\xe9'", '[1, 1, ...')
    """
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # Python spells no number of thousands of digits, and no deep list
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= most else text[: most - 3] + "..."


def one_line(text: str, most: int = LINE) -> str:
    """A message on one line; of one that is too long, the middle is left out, because a message begins with
    the place and ends with how to mend it."""
    text = text.replace("\r", "\\r").replace("\n", "\\n")
    half = (most - 5) // 2
    return text if len(text) <= most else f"{text[:half]} ... {text[-half:]}"
