"""How prompts and answers become token ids: their text stays text, whatever special token it spells.

Only the markers of a chat template itself become special tokens. No other file tokenises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rlhf.data.conversations import transcript
from rlhf.data.errors import DataError
from rlhf.models.chat import Chat
from rlhf.models.plain import Plain, Row, content_ids, ids_in_front
from rlhf.models.tokenizer_files import check_tokenizer, load_tokenizer

__all__ = [
    "Chat",
    "Plain",
    "Prompt",
    "Row",
    "Template",
    "answered",
    "as_row",
    "check_tokenizer",
    "content_ids",
    "documents",
    "load_tokenizer",
    "prompts_within",
    "same_template",
    "template_of",
]

SLACK = 32  # tokens that a sampled answer may have more when its text is read again
Prompt = str | list[dict[str, str]]  # text, or chat messages


class Template(Protocol):
    """How the rows of a policy become ids and back. Sequences are prompt ids + answer ids, joined as ids.

    Attributes:
        stops: the ids at which an answer ends; `answer` writes the first.
    """

    tokenizer: Any
    stops: tuple[int, ...]

    def prompt(self, row: Row) -> list[int]:
        """Ids of a row's prompt, ready for generation."""
        ...

    def answer(self, row: Row, text: str) -> list[int]:
        """Ids of an answer to `row`, with the token that ends the turn and nothing behind it."""
        ...

    def text(self, ids: Sequence[int], row: Row | None = None) -> str:
        """The answer to `row` in generated ids: no special tokens, no thinking."""
        ...

    def prompts(self, rows: Sequence[Row]) -> list[list[int]]:
        """`prompt` for many rows."""
        ...

    def answers(self, rows: Sequence[Row], texts: Sequence[str]) -> list[list[int]]:
        """`answer` for many rows."""
        ...

    def pairs(self, rows: Sequence[Row], texts: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        """`prompts` and `answers`, at the price of the answers."""
        ...

    def shortened(self, row: Row, ids: list[int], room: int) -> list[int]:
        """The ids of a row's prompt in at most `room` tokens, or a DataError."""
        ...


def template_of(tokenizer: Any, kind: str = "auto", arguments: Mapping[str, Any] | None = None) -> Template:
    """The template that a policy's settings name.

    Args:
        kind: `auto` (the tokenizer's own template for conversations, text as it is), `plain`, or `chat`
            (text is read as one user turn).

    Raises:
        DataError: no such kind, `chat` without a template, or arguments for no template.
    """
    if kind not in ("auto", "plain", "chat"):
        raise DataError(f"no template kind {kind!r}; use auto, plain or chat")
    if kind == "plain" or (kind == "auto" and not tokenizer.chat_template):
        if arguments:
            raise DataError(
                f"template_arguments ({', '.join(arguments)}) need a chat template, and there is none"
            )
        return Plain(tokenizer)
    if not tokenizer.chat_template:
        raise DataError("this tokenizer has no chat template; set base.template to a file or to plain")
    return Chat(tokenizer, arguments or {}, wrap=kind == "chat")


def same_template(a: Template, b: Template) -> bool:
    """Whether two templates on the same vocabulary write the same ids."""
    names = ("source", "arguments", "wrap", "start")
    return type(a) is type(b) and all(getattr(a, name, None) == getattr(b, name, None) for name in names)


def as_row(prompt: str | Sequence[Mapping[str, str]]) -> Row:
    """A row of a prompt text, or of the messages of a conversation."""
    if isinstance(prompt, str):
        return {"prompt": prompt, "messages": None}
    return {"prompt": transcript(prompt), "messages": list(prompt)}


def prompts_within(template: Template, rows: Sequence[Row], longest: int) -> list[list[int]]:
    """Ids of prompts in at most `longest` tokens each; a longer plain prompt loses its start.

    Raises:
        DataError: a conversation is longer.
    """
    return [
        template.shortened(row, ids, longest) for row, ids in zip(rows, template.prompts(rows), strict=True)
    ]


def answered(
    template: Template, rows: Sequence[Row], texts: Sequence[str], longest: int, *, sampled: bool = False
) -> tuple[list[list[int]], list[int]]:
    """Ids of prompt + answer, and where each answer begins (at least 1).

    Beyond `longest` tokens a plain prompt loses its start, but never BOS.

    Args:
        sampled: the answers may be a model's that ended where the context did. Read again they have a token
            that ends them, and half a letter becomes some tokens more: up to `SLACK` tokens in front of the
            end are left out where they do not fit.

    Raises:
        DataError: a conversation with its answer is longer, or an answer alone.
    """
    sequences, starts = [], []
    prompts, answers = template.pairs(rows, texts)
    for row, text, ids, answer in zip(rows, texts, prompts, answers, strict=True):
        over = len(ids) + len(answer) - longest
        if sampled and 0 < over <= min(SLACK, len(answer) - 1) and row.get("messages") is not None:
            answer = [*answer[: -1 - over], answer[-1]]
        room = longest - len(answer)
        ids = template.shortened(row, ids, room) if room >= 0 else ids
        if len(ids) > room:  # BOS stays, and needs room too
            raise DataError(
                f"the answer {text[:60]!a} has {len(answer)} tokens and the context {longest}; "
                "shorten it, leave it out, or take a model with a longer context"
            )
        sequences.append(ids + answer)
        starts.append(max(1, len(ids)))
    return sequences, starts


def documents(
    template: Template, items: Sequence[str | Row], longest: int
) -> tuple[list[list[int]], list[int]]:
    """Ids of what a language-modelling loss reads, and where it begins to learn in each.

    Args:
        items: texts, learnt whole, or rows with a `completion`, of which that is learnt.
        longest: in tokens; a text beyond it loses its end, a row the start of its prompt. A text without
            tokens is left out.
    """
    front = ids_in_front(template.tokenizer)
    sequences, starts = [], []
    for item in items:
        if isinstance(item, str):
            ids = content_ids(template.tokenizer, [item])[0]
            if ids:
                sequences.append([*front, *ids, template.tokenizer.eos_token_id][:longest])
                starts.append(1)
        else:
            (ids,), (start,) = answered(template, [item], [item["completion"]], longest)
            sequences.append(ids)
            starts.append(start)
    return sequences, starts
