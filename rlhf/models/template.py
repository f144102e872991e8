"""How prompts and answers become token ids: their text stays text, whatever special token it spells.

Only the markers of a chat template itself become special tokens. No other file tokenises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlhf.data.errors import DataError

Prompt = str | list[dict[str, str]]  # text, or chat messages


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
