"""What a user may have meant by a name that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def meant(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'helpfulness'?`, or nothing where no known name is near.

    >>> meant("helpfullness", ["helpfulness", "verbosity"]), meant("colour", ["helpfulness"])
    ("; did you mean 'helpfulness'?", '')
    """
    spelled = {str(real).casefold(): str(real) for real in known}
    near = get_close_matches(name.casefold(), spelled, n=1, cutoff=0.6)
    return f"; did you mean {spelled[near[0]]!r}?" if near else ""
