"""A conversation as pages show it: one block a turn, with the name of who speaks in words.

Whatever a turn says is text, and a role that nobody knows is shown as what it is, never as one that is known.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.data.conversations import ROLES, Messages, speaker

LONG_CHARACTERS, LONG_LINES = 1500, 25  # an earlier turn beyond either is folded at first
PREVIEW = 160  # characters of a folded turn that are seen
LISTED = 2000  # characters of a turn that a list of labels shows


@dataclass(frozen=True)
class Turn:
    """A turn of a conversation.

    Attributes:
        role: as the data has it, whatever it is.
        look: which style it has: a known role, or `other`.
        speaker: who speaks, for people.
        text: what is said.
        foldable: whether it can be folded: the system's, and one that is long and not the last.
        open: whether it is unfolded at first.
    """

    role: str
    look: str
    speaker: str
    text: str
    foldable: bool
    open: bool

    @property
    def preview(self) -> str:
        """The first words, for where it is folded."""
        words = " ".join(self.text[: 4 * PREVIEW].split())
        return words if len(words) <= PREVIEW else words[:PREVIEW].rstrip() + "…"


def turns(messages: Messages, listed: bool = False) -> list[Turn]:
    """The turns of a conversation, for a page.

    Args:
        messages: `role` and `content` of each.
        listed: for a list of labels: a very long turn is cut, with an ellipsis that says so.
    """
    last = len(messages) - 1
    made = []
    for place, message in enumerate(messages):
        role, text = str(message["role"]), str(message["content"])
        long = place != last and (len(text) > LONG_CHARACTERS or text.count("\n") > LONG_LINES)
        if listed and len(text) > LISTED:
            text = text[:LISTED] + "…"
        look = role if role in ROLES else "other"
        made.append(Turn(role, look, speaker(role), text, long or role == "system", open=not long))
    return made
