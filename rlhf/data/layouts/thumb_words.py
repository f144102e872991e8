"""The words of thumbs: whether a value says that an answer is good, as 1 and 0, 1 and -1, or in words."""

from __future__ import annotations

from typing import Any

from rlhf.data.layouts.layout import Notes, Options, UnknownWords
from rlhf.data.layouts.verdict_words import plain

# Words that say it of an answer in any column.
_UP = ("up", "thumbs up", "thumb up", "thumbsup", "upvote", "upvoted", "like", "liked", "👍", ":thumbsup:")
_DOWN = (
    *("down", "thumbs down", "thumb down", "thumbsdown", "downvote", "downvoted", "dislike", "disliked"),
    *("👎", ":thumbsdown:", ":-1:"),
)
_GOOD = frozenset((*_UP, "good", "yes", "true", "1", "+1", ":+1:", "positive", "desirable", "helpful", "y"))
_GOOD |= {"accept", "accepted", "acceptable", "pass", "correct", "t", "✅", "✔", "👌"}
_BAD = frozenset((*_DOWN, "bad", "no", "false", "0", "-1", "negative", "undesirable", "unhelpful", "n"))
_BAD |= {"reject", "rejected", "unacceptable", "not helpful", "fail", "incorrect", "f", "❌", "✖"}
_SAID = frozenset((*_UP, *_DOWN))


class UnknownThumbs(UnknownWords):
    """Values of a vote that are neither up nor down, with all that were met."""

    def _line(self, told: str, first: str) -> str:
        return (
            f"values that are no thumb: {told}; map them by ingest.words, such as {{{ascii(first)[:40]}: "
            "down} (up, down, skip)"
        )


def says_thumb(value: str) -> bool:
    """Whether a text is a thumb whatever its column is called: `up`, `dislike`, an emoji."""
    return _word(value) in _SAID


def thumb(label: Any, column: str, options: Options, notes: Notes, where: str) -> bool | None:
    """A vote as true or false; None where the user says to leave it out.

    Args:
        label: a truth value, a number, a word or an emoji.
        column: its column.
        options: `words` maps values to `up`, `down` or `skip`.
        notes: knows whether 0 or -1 is the bad vote of this file.
        where: the record.

    Raises:
        UnknownThumbs: it says neither; also 0 beside -1, which may be a vote that nobody gave.
    """
    word = _word(label)
    mapped = {_word(key): _word(said) for key, said in options.words.items()}
    if mapped.get(word) == "skip":
        return None
    if word in ("0", "-1") and word not in mapped:
        file = where.rpartition(":")[0]
        if notes.first(("thumb", file, column), word) != word:
            raise UnknownThumbs({(column, "0"): 1})
    word = mapped.get(word, word)
    if word in _GOOD or word in _BAD:
        return word in _GOOD
    raise UnknownThumbs({(column, str(label)): 1})


def _word(value: Any) -> str:
    return plain(value).replace("_", " ").replace("thumbs-", "thumbs ")
