"""How prompts and answers become token ids: their text stays text, whatever special token it spells.

Only the markers of a chat template itself become special tokens. No other file tokenises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rlhf.data.errors import DataError
from rlhf.models.chat import Chat
from rlhf.models.plain import Plain, Row, content_ids
from rlhf.models.tokenizer_files import load_tokenizer

__all__ = [
    "Chat",
    "Plain",
    "Row",
    "Template",
    "answered",
    "as_row",
    "content_ids",
    "load_tokenizer",
    "prompts_within",
    "template_of",
]

Prompt = str | list[dict[str, str]]  # text, or chat messages


class Template(Protocol):
    """How the rows of a policy become ids and back. Sequences are prompt ids + answer ids, joined as ids.

    Attributes:
        stops: the ids at which an answer ends; `answer` writes the first.
    """

    stops: tuple[int, ...]

    def prompt(self, row: Row) -> list[int]:
        """Ids of a row's prompt, ready for generation."""
        ...

    def answer(self, row: Row, text: str) -> list[int]:
        """Ids of an answer to `row`, with the token that ends the turn and nothing behind it."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """The answer in generated ids: no special tokens, no thinking."""
        ...

    def prompts(self, rows: Sequence[Row]) -> list[list[int]]:
        """`prompt` for many rows."""
        ...

    def answers(self, rows: Sequence[Row], texts: Sequence[str]) -> list[list[int]]:
        """`answer` for many rows."""
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


def as_row(prompt: str | Sequence[Mapping[str, str]]) -> Row:
    """A row of a prompt text, or of the messages of a conversation."""
    if isinstance(prompt, str):
        return {"prompt": prompt, "messages": None}
    return {"prompt": "\n".join(str(m["content"]) for m in prompt), "messages": list(prompt)}


def prompts_within(template: Template, rows: Sequence[Row], longest: int) -> list[list[int]]:
    """Ids of prompts in at most `longest` tokens each; a longer plain prompt loses its start.

    Raises:
        DataError: a conversation is longer.
    """
    return [
        template.shortened(row, ids, longest) for row, ids in zip(rows, template.prompts(rows), strict=True)
    ]


def answered(
    template: Template, rows: Sequence[Row], texts: Sequence[str], longest: int
) -> tuple[list[list[int]], list[int]]:
    """Ids of prompt + answer, and where each answer begins (at least 1).

    Beyond `longest` tokens the prompt loses its start; if the answer alone is longer, it loses its start too.

    Raises:
        DataError: a conversation and its answer are longer.
    """
    sequences, starts = [], []
    prompts, answers = template.prompts(rows), template.answers(rows, texts)
    for row, ids, answer in zip(rows, prompts, answers, strict=True):
        ids = template.shortened(row, ids, longest - len(answer))
        sequences.append((ids + answer)[-longest:])
        starts.append(max(1, len(ids) - max(0, len(ids) + len(answer) - longest)))
    return sequences, starts


def prompt_ids(tokenizer: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Ids of prompts, ready for an answer: texts as they are, chat messages through the template.

    A tokenizer without a template reads messages line by line.

    Raises:
        DataError: see `content_ids`.
    """
    chats = [prompt for prompt in prompts if not isinstance(prompt, str)]
    if not chats or not tokenizer.chat_template:
        return content_ids(tokenizer, as_text(prompts))
    try:
        rendered = iter(
            tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, return_dict=False, sanitize_control_tokens=True
            )
        )
    except ValueError as error:
        raise DataError(f"the chat messages cannot be read by this tokenizer: {error}") from None
    plain = iter(content_ids(tokenizer, [prompt for prompt in prompts if isinstance(prompt, str)]))
    return [next(plain if isinstance(prompt, str) else rendered) for prompt in prompts]


def encode_prompts(tokenizer: Any, prompts: Sequence[str], longest: int) -> list[list[int]]:
    """Ids of text prompts; longer ones lose their start, so that the cue for the answer stays."""
    return [row[-longest:] for row in content_ids(tokenizer, prompts)]


def as_text(prompts: Sequence[Prompt]) -> list[str]:
    """Prompts as people read them; of chat messages, the contents line by line."""
    return [
        prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
        for prompt in prompts
    ]


def answered_ids(
    tokenizer: Any, prompts: Sequence[Prompt], completions: Sequence[str], longest: int
) -> list[list[int]]:
    """Ids of prompt + completion + EOS; sequences longer than `longest` lose the start of their prompt.

    A text is tokenised together with its completion, as in a document. A chat prompt ends with a marker of
    its template, so its completion is tokenised by itself.
    """
    pairs = list(zip(prompts, completions, strict=True))
    chats = [pair for pair in pairs if tokenizer.chat_template and not isinstance(pair[0], str)]
    texts = [pair for pair in pairs if not tokenizer.chat_template or isinstance(pair[0], str)]
    whole = iter(content_ids(tokenizer, [as_text([prompt])[0] + completion for prompt, completion in texts]))
    starts = iter(prompt_ids(tokenizer, [prompt for prompt, _ in chats]))
    ends = iter(content_ids(tokenizer, [completion for _, completion in chats]))
    rows = [
        next(whole) if not tokenizer.chat_template or isinstance(prompt, str) else next(starts) + next(ends)
        for prompt in prompts
    ]
    return [[*row, tokenizer.eos_token_id][-longest:] for row in rows]


def answered_ids_and_starts(
    tokenizer: Any, prompts: Sequence[str], completions: Sequence[str], longest: int
) -> tuple[list[list[int]], list[int]]:
    """The rows of `answered_ids`, and where in each row the completion begins (at least 1)."""
    rows = answered_ids(tokenizer, prompts, completions, 1 << 30)
    starts = [len(ids) for ids in content_ids(tokenizer, prompts)]
    starts = [max(1, start - max(0, len(row) - longest)) for start, row in zip(starts, rows, strict=True)]
    return [row[-longest:] for row in rows], starts
