"""Plain text as a `Template`: what a base model reads, and how the spelling of a special token stays text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.data.errors import DataError

Row = Mapping[str, Any]  # `prompt`: text; `messages`: a list of {"role", "content"}, or None


def content_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts, without any special token.

    Raises:
        DataError: the tokenizer can read the spelling of a special token only as that token.
    """
    if not texts:
        return []
    rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.discard(tokenizer.unk_token_id)
    for text, row in zip(texts, rows, strict=True):
        if not special.isdisjoint(row):
            token = tokenizer.convert_ids_to_tokens(next(i for i in row if i in special))
            raise DataError(
                f"this tokenizer reads {token!r} in {text[:60]!r} as its special token; remove it"
            )
    return rows


def writes_bos(tokenizer: Any) -> bool:
    """Whether a tokenizer begins a text with BOS by itself.

    transformers 5 forgets `add_bos_token` of some configs (DeepSeek's), so the config is asked as well.
    """
    bos = tokenizer.bos_token_id
    if bos is None:
        return False
    return tokenizer("a")["input_ids"][:1] == [bos] or tokenizer.init_kwargs.get("add_bos_token") is True


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
        self.start = [tokenizer.bos_token_id] if writes_bos(tokenizer) else []

    def prompt(self, row: Row) -> list[int]:
        """Ids of a row's prompt, ready for an answer."""
        return self.prompts([row])[0]

    def answer(self, row: Row, text: str) -> list[int]:
        """Ids of an answer, and EOS."""
        return self.answers([row], [text])[0]

    def text(self, ids: Sequence[int]) -> str:
        """The text of generated ids up to the first stop."""
        return self.tokenizer.decode(until_stop(ids, self.stops), skip_special_tokens=True)

    def prompts(self, rows: Sequence[Row]) -> list[list[int]]:
        """Ids of many rows' prompts."""
        return [self.start + ids for ids in content_ids(self.tokenizer, [row["prompt"] for row in rows])]

    def answers(self, rows: Sequence[Row], texts: Sequence[str]) -> list[list[int]]:
        """Ids of many answers, each with EOS."""
        return [[*ids, self.stops[0]] for ids in content_ids(self.tokenizer, texts)]

    def shortened(self, row: Row, ids: list[int], room: int) -> list[int]:
        """A prompt's ids; beyond `room` they lose their start: the answer's cue and BOS stay."""
        if len(ids) <= room:
            return ids
        kept = max(0, room - len(self.start))
        return self.start + ids[len(ids) - kept :]
