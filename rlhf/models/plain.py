"""Plain text as a `Template`: what a base model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.models.control_tokens import controls_of, encode

Row = Mapping[str, Any]  # `prompt`: text; `messages`: a list of {"role", "content"}, or None


def content_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts, without any control token.

    Raises:
        DataError: the tokenizer can read the spelling of a control token only as that token.
    """
    controls = controls_of(tokenizer)
    return encode(tokenizer, [controls.mark(text) for text in texts])


def ids_in_front(tokenizer: Any) -> list[int]:
    """The ids that a tokenizer writes in front of a text by itself: BOS, or none."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    return whole[:at]


def until_stop(ids: Sequence[int], stops: Sequence[int]) -> list[int]:
    """The ids in front of the first stop."""
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    return [int(i) for i in ids[:end]]


class Plain:
    """The text of a row as it is: BOS once where the tokenizer writes one, and EOS behind an answer.

    Attributes:
        stops: EOS.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.stops: tuple[int, ...] = (tokenizer.eos_token_id,)
        self.start = ids_in_front(tokenizer)
        # Some tokenizers put a blank in front of every text. An answer is not the start of a text: it is read
        # behind a line break, which is then taken off again.
        self._line = (
            tokenizer("\n", add_special_tokens=False)["input_ids"] if _puts_a_blank(tokenizer) else []
        )

    def prompt(self, row: Row) -> list[int]:
        """Ids of a row's prompt, ready for an answer."""
        return self.prompts([row])[0]

    def answer(self, row: Row, text: str) -> list[int]:
        """Ids of an answer, and EOS."""
        return self.answers([row], [text])[0]

    def text(self, ids: Sequence[int], row: Row | None = None) -> str:
        """The text of generated ids up to the first stop."""
        return self.decode(until_stop(ids, self.stops))

    def decode(self, ids: list[int]) -> str:
        """The text of ids in the middle of a text, without special tokens."""
        return self.decode_alone([*self._line, *ids])[bool(self._line) :]

    def decode_alone(self, ids: list[int]) -> str:
        """The text of ids, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def prompts(self, rows: Sequence[Row]) -> list[list[int]]:
        """Ids of many rows' prompts."""
        return [self.start + ids for ids in content_ids(self.tokenizer, [row["prompt"] for row in rows])]

    def answers(self, rows: Sequence[Row], texts: Sequence[str]) -> list[list[int]]:
        """Ids of many answers, each with EOS."""
        return [[*ids, self.stops[0]] for ids in self.continuations(texts)]

    def continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that go on behind others, without any control token."""
        mark = controls_of(self.tokenizer).mark
        return self.continued([mark(text) for text in texts])

    def continued(self, marked: Sequence[str]) -> list[list[int]]:
        """Ids of texts that go on behind others, in which control tokens that are no tokens are marked."""
        if not self._line:
            return encode(self.tokenizer, marked)
        rows = encode(self.tokenizer, ["\n" + text for text in marked])
        line = len(self._line)
        return [
            ids[line:] if ids[:line] == self._line else encode(self.tokenizer, [text])[0]
            for ids, text in zip(rows, marked, strict=True)
        ]

    def pairs(self, rows: Sequence[Row], texts: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        """Ids of many rows' prompts, and of their answers."""
        return self.prompts(rows), self.answers(rows, texts)

    def shortened(self, row: Row, ids: list[int], room: int) -> list[int]:
        """A prompt's ids; beyond `room` they lose their start: the answer's cue and BOS stay."""
        if len(ids) <= room:
            return ids
        kept = max(0, room - len(self.start))
        return self.start + ids[len(ids) - kept :]


def _puts_a_blank(tokenizer: Any) -> bool:
    """Whether a tokenizer begins each text with a blank, in its ids or when it decodes them."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    line, whole = ids("\n"), ids("\na")
    if whole[: len(line)] == line and whole[len(line) :] != ids("a"):
        return True
    return tokenizer.decode(ids(" a")) != " a" and tokenizer.decode(ids("\n a")) == "\n a"
