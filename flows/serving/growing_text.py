"""The text of an answer while its tokens come: what can be shown already, and where a stop string ends it."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf.models.template import Template

BROKEN = "\ufffd"  # what stands for bytes that are not yet a whole character


class GrowingText:
    """An answer whose tokens come one after the other.

    The pieces that `add` and `end` return make up the text that `Template.text` gives for all tokens, up to
    the first stop string. A piece never ends inside a character, and nothing is taken back: what could still
    become a stop string or change with the next token is held back.

    Args:
        template: turns ids into text.
        stops: strings that end the answer; none of them is part of it.

    Attributes:
        ids: the tokens so far.
        stopped: whether a stop string has ended the answer.
    """

    def __init__(self, template: Template, stops: Sequence[str] = ()) -> None:
        self.template, self.stops = template, tuple(stops)
        self.ids: list[int] = []
        self.stopped = False
        self._shown = ""
        # What the template writes before an answer (an empty thinking block) is no text, once it is whole.
        self._opening = list(getattr(template, "prefix", ()))

    def add(self, token: int) -> str:
        """Take the next token; returns the piece of text that is certain now."""
        self.ids.append(token)
        if len(self.ids) < len(self._opening) and self.ids == self._opening[: len(self.ids)]:
            return ""
        text = self._until_stop(self.template.text(self.ids))
        return self._piece(text if self.stopped else text[: len(text) - self._uncertain(text)])

    def end(self) -> str:
        """The piece that was held back, when no more tokens come."""
        return "" if self.stopped else self._piece(self._until_stop(self.template.text(self.ids)))

    def _until_stop(self, text: str) -> str:
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        self.stopped = bool(places)
        return text[: min(places)] if places else text

    def _uncertain(self, text: str) -> int:
        """How many characters at the end of a text may still change."""
        tail = len(text) - len(text.rstrip(BROKEN))
        for stop in self.stops:
            for length in range(min(len(stop) - 1, len(text)), tail, -1):
                if text.endswith(stop[:length]):
                    tail = length
                    break
        return tail

    def _piece(self, text: str) -> str:
        """What a text has beyond what was shown; empty while a token changes what stands before it."""
        if not text.startswith(self._shown):
            return ""
        piece, self._shown = text[len(self._shown) :], text
        return piece
