"""Thinking in what a model wrote: where it ends and the answer begins."""

from __future__ import annotations

import re
from typing import Any

_WORDS = "think|thinking|thought|reasoning|reflection|scratchpad|seed:think|longcat_think"
OPENING = re.compile(rf"<(?:{_WORDS})>|\[THINK\]|<\|START_THINKING\|>|<\|think\|>|◁think▷", re.IGNORECASE)
CLOSING = re.compile(rf"</(?:{_WORDS})>|\[/THINK\]|<\|END_THINKING\|>|<\|/think\|>|◁/think▷", re.IGNORECASE)


def around_thinking(text: str) -> list[str]:
    """A text that begins with thinking as ["", tag, thought, tag, answer]; another as [text].

    Templates may write other blanks between thought, tags and answer than a text has.
    """
    opening = OPENING.match(text)
    closing = CLOSING.search(text) if opening else None
    if opening is None or closing is None:
        return [text]
    return ["", opening[0], text[opening.end() : closing.start()], closing[0], text[closing.end() :]]


def left_open(text: str) -> bool:
    """Whether a text opens thinking and does not close it, as the prompt of some templates does."""
    opened = [tag.end() for tag in OPENING.finditer(text)]
    return bool(opened) and not CLOSING.search(text, opened[-1])


class Thinking:
    """The thinking tags that a tokenizer and its template know.

    Args:
        source: the chat template.
    """

    def __init__(self, tokenizer: Any, source: str) -> None:
        self.source = source
        added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
        self.opening = {i for i, text in added.items() if OPENING.fullmatch(text)}
        self.closing = {i for i, text in added.items() if CLOSING.fullmatch(text)}

    def behind_tokens(self, ids: list[int]) -> list[int]:
        """The ids from the token on that closes the thinking; none if it was opened and never closed.

        Where tags are special tokens, decoding would take them off and leave the thoughts.
        """
        for i, token in enumerate(ids):
            if token in self.closing:
                return ids[i:]
        return [] if self.opening.intersection(ids[:2]) else ids

    def behind_tags(self, text: str) -> str:
        """The text behind the tag that closes the thinking; none if it was opened and never closed.

        A closing tag counts only if the text begins with an opening one, or if the template knows it: in an
        answer about tags it is a word.
        """
        opened = OPENING.match(text.lstrip())
        closing = next((tag for tag in CLOSING.finditer(text) if opened or tag[0] in self.source), None)
        if closing:
            return text[closing.end() :]
        return "" if opened else text
