"""A number with its noun, as messages say it: 1 row has, 2 rows have, 3 people."""

from __future__ import annotations

_NOUNS = {"person": "people"}
_VERBS = {"are": "is", "were": "was", "have": "has", "do": "does"}  # of several -> of one


def plural(number: int, noun: str, verb: str = "") -> str:
    """A number and its noun, and what it does.

    Args:
        number: how many.
        noun: of one.
        verb: of several, as "name" in "2 rows name no labeler"; its first word is changed where there is one.
    """
    if number == 1:
        first, space, rest = verb.partition(" ")
        told = f"{_VERBS.get(first, f'{first}s')}{space}{rest}" if verb else ""
        return f"1 {noun} {told}".rstrip()
    several = _NOUNS.get(noun, f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s")
    return f"{number} {several} {verb}".rstrip()
