"""What a word says of outputs: which of them it names, that they tie, or nothing that is known."""

from __future__ import annotations

import re

from rlhf.data.errors import DataError
from rlhf.data.layouts.fields import Shown, ask_for_outputs, plain, stem_and_suffix
from rlhf.data.layouts.layout import Options

TIES = ("tie", "tied", "equal", "equallygood", "same", "draw", "both", "bothgood")
BOTH_BAD = ("neither", "bothbad", "tiebothbad", "bothbadtie", "equallybad")
_PLACE = re.compile(
    r"(?:response|answer|output|completion|option|candidate|text|summary|model|assistant|generation)?"
    r"(\d+|[a-z])"
)
_FIRST, _SECOND = ("first", "left"), ("second", "right")


def meaning_of(value: str, seen: Shown, options: Options) -> int | str | None:
    """What a word says: the place of an output, `tie`, `both_bad`, `skip`, or None.

    Raises:
        DataError: `options.words` says something that is none of these.
    """
    words = {plain(word): said for word, said in options.words.items()}
    word = words.get(plain(value))
    if word in ("tie", "both_bad", "skip"):
        return word
    if word is not None:
        if word in ("first", "second") and len(seen.names) >= 2:
            if not seen.sure:
                raise ask_for_outputs(seen.names)
            return ("first", "second").index(word)
        if word in seen.names:
            return seen.names.index(word)
        raise DataError(
            f"ingest.words says that {value!r} is {word!r}; write first, second, tie, both_bad, skip, or one "
            f"of {', '.join(seen.names)}"
        )
    bare = plain(value)
    named = [place for place, name in enumerate(seen.names) if plain(name) == bare]
    if len(named) == 1:
        return named[0]
    if bare in TIES:
        return "tie"
    if bare in BOTH_BAD:
        return "both_bad"
    if bare.isdigit() and any(
        plain(known).isdigit() and said not in ("tie", "both_bad", "skip")
        for known, said in options.words.items()
    ):
        return None  # where the user says that a 0 is the first, a 1 is not the first as well
    return place_of(bare, seen) if seen.ordered else None


def place_of(bare: str, seen: Shown) -> int | None:
    """The output that `a`, `2`, `response2` or `left` says, where the names or the user order them."""
    if len(seen.names) == 2 and bare in (*_FIRST, *_SECOND):
        return 0 if bare in _FIRST else 1
    match = _PLACE.fullmatch(bare)
    if match is None:
        return None
    suffixes = [(stem_and_suffix(name) or ("", ""))[1] for name in seen.names]
    if all(suffix.isdigit() == match[1].isdigit() and suffix for suffix in suffixes):
        return suffixes.index(match[1]) if suffixes.count(match[1]) == 1 else None
    place = int(match[1]) - 1 if match[1].isdigit() else ord(match[1]) - ord("a")
    return place if 0 <= place < len(seen.names) else None
