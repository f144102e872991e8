"""What a word says of outputs: which of them it names, that they tie, or nothing that is known."""

from __future__ import annotations

from rlhf.data.errors import DataError
from rlhf.data.layouts.fields import Shown, ask_for_outputs, plain, stem_and_suffix
from rlhf.data.layouts.layout import Options
from rlhf.data.layouts.values import words
from rlhf.data.layouts.verdict_words import Answers, place_of, tie_of
from rlhf.data.near import meant

_MEANINGS = ("first", "second", "tie", "both_bad", "skip")


def meaning_of(value: str, seen: Shown, options: Options) -> int | str | None:
    """What a word says: the place of an output, `tie`, `both_bad`, `skip`, or None.

    Raises:
        DataError: `options.words` says something that is none of these.
    """
    mapped = {plain(word): said for word, said in options.words.items()}
    word = mapped.get(plain(value))
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
            f"ingest.words says that {value!r} is {word!r}; write {', '.join(_MEANINGS)}, or one of "
            f"{', '.join(seen.names)}{meant(word, (*_MEANINGS, *seen.names))}"
        )
    bare = plain(value)
    named = [place for place, name in enumerate(seen.names) if plain(name) == bare]
    if len(named) == 1:
        return named[0]
    if tie := tie_of(value):
        return tie
    if bare.isdigit() and any(
        plain(known).isdigit() and said not in ("tie", "both_bad", "skip")
        for known, said in options.words.items()
    ):
        return None  # where the user says that a 0 is the first, a 1 is not the first as well
    return place_in(value, seen) if seen.ordered else None


def place_in(value: str, seen: Shown) -> int | None:
    """The output that `a`, `2`, `Response 2` or `left is better` says, where names or the user order them."""
    said = words(value)
    if len(said) > 1 and {"first", "second"} & set(said) and "better" in said:
        return None  # a sentence of what was shown first, which need not be the first field
    marks = [(stem_and_suffix(name) or ("", ""))[1] for name in seen.names]
    return place_of(value, Answers(seen.names, marks))
