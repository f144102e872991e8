"""The text of an answer while its tokens come: what can be shown already, and where a stop string ends it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rlhf.models.template import Row, Template
from rlhf.models.thinking import CLOSING

BROKEN = "\ufffd"  # what stands for bytes that are not yet a whole character
_TAG = re.compile(r"\s*[<\[◁][^\s>\]▷]{0,24}")  # what may become a tag that opens thinking


class GrowingText:
    """An answer whose tokens come one after the other.

    The pieces that `add` and `end` return make up the text that `Template.text` gives for all tokens, up to
    the first stop string. A piece never ends inside a character, and nothing is taken back: what could still
    become a stop string or change with the next token is held back, and so is all until thinking has ended
    that the prompt or the answer begins with. (Where a model closes in the middle of an answer what was never
    opened, no more comes: what was shown is none of the answer.)

    Args:
        template: turns ids into text.
        row: what is answered.
        stops: strings that end the answer; none of them is part of it.
        thinks: whether the prompt ends inside of thinking, as some templates have it.

    Attributes:
        ids: the tokens so far.
        stopped: whether a stop string has ended the answer.
    """

    def __init__(self, template: Template, row: Row, stops: Sequence[str] = (), thinks: bool = False) -> None:
        self.template, self.row, self.stops, self.thinks = template, row, tuple(stops), thinks
        self.ids: list[int] = []
        self.stopped = False
        self._shown = ""

    def add(self, token: int) -> str:
        """Take the next token; returns the piece of text that is certain now."""
        self.ids.append(token)
        text = self.template.text(self.ids, self.row)
        if self.thinks:
            written = self.template.tokenizer.decode(self.ids, skip_special_tokens=False)
            self.thinks = not CLOSING.search(written)
        if self.thinks or (not self._shown and _TAG.fullmatch(text)):
            return ""
        text = self._until_stop(text)
        return self._piece(text if self.stopped else text[: len(text) - self._uncertain(text)])

    def end(self) -> str:
        """The piece that was held back, when no more tokens come."""
        if self.stopped:
            return ""
        return self._piece(self._until_stop(self.template.text(self.ids, self.row)))

    def _until_stop(self, text: str) -> str:
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        self.stopped = bool(places)
        return text[: min(places)] if places else text

    def _uncertain(self, text: str) -> int:
        """How many characters at the end of a text may still change."""
        whole = text.rstrip(BROKEN)
        tail = len(text) - len(whole)
        for stop in self.stops:
            for known in (text, whole):  # the characters that are not whole yet may be the stop's
                for length in range(min(len(stop) - 1, len(known)), 0, -1):
                    if known.endswith(stop[:length]):
                        tail = max(tail, len(text) - len(known) + length)
                        break
        return tail

    def _piece(self, text: str) -> str:
        """What a text has beyond what was shown; empty while a token changes what stands before it."""
        if not text.startswith(self._shown):
            return ""
        piece, self._shown = text[len(self._shown) :], text
        return piece
