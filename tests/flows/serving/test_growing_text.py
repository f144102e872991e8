"""The pieces of a growing answer are the text of the whole, in whole characters and without thinking."""

from __future__ import annotations

import random
from typing import Any

import pytest
from chat_policies import CHATML, small_policy

from flows.serving.growing_text import GrowingText
from rlhf.models.template import as_row
from rlhf.models.thinking import left_open

HI = as_row([{"role": "user", "content": "How are you today?"}])
# an empty thinking block before the last answer, as Qwen3's template writes it
THINKING = CHATML.replace(
    "+ message['content'] +",
    "+ ('<think>\\n\\n</think>\\n\\n' if loop.last and message['role'] == 'assistant' else '') "
    "+ message['content'] +",
)
# the prompt ends inside of thinking, as DeepSeek's templates have it
OPENED = "{%- set closing = '</think>' %}" + CHATML.replace("assistant\\n' }}", "assistant\\n<think>\\n' }}")
TEXT = "Where is the café? 🦩 in 東京 [1] <b>."


def pieces(policy: Any, ids: list[int], stops: tuple[str, ...] = (), row: Any = HI) -> list[str]:
    thinks = left_open(policy.tokenizer.decode(policy.template.prompt(row)))
    text = GrowingText(policy.template, row, stops, thinks)
    shown = []
    for token in ids:
        shown.append(text.add(token))
        if text.stopped:
            break
    return [*shown, text.end()]


@pytest.mark.parametrize("template", [CHATML, THINKING, OPENED, None])
def test_pieces_are_the_text(template: str | None) -> None:
    policy = small_policy(chat=template is not None, template=template or "")
    row = HI if template else as_row("How")
    ids = policy.template.answer(row, TEXT)
    if template == OPENED:
        ids = policy.template.plain.continuations([f"I think <b>of {TEXT}</think>\n\n{TEXT}"])[0]
    shown = pieces(policy, ids, row=row)
    assert "".join(shown) == policy.template.text(ids, row) == TEXT
    assert sum(map(bool, shown)) > 10  # not all at the end
    assert not any("\ufffd" in piece or "think" in piece for piece in shown)


@pytest.mark.parametrize("tags", [True, False])
def test_thinking_of_the_model_is_not_shown(tags: bool) -> None:
    policy = small_policy(template=THINKING)
    if tags:  # tokens of their own, as in most vocabularies
        policy.tokenizer.add_tokens(["<think>", "</think>"])
        policy = type(policy)(policy.model, policy.tokenizer)
    encode = policy.tokenizer(f"<think>\nI wonder.\n</think>\n\n{TEXT}", add_special_tokens=False)
    shown = pieces(policy, encode["input_ids"])
    assert "".join(shown) == TEXT
    assert not any(word in "".join(shown) for word in ("wonder", "think"))


def test_tokens_at_random_and_stop_strings() -> None:
    policy, rng = small_policy(), random.Random(3)
    for _ in range(40):
        ids = [rng.randrange(len(policy.tokenizer)) for _ in range(40)]
        ids = [token for token in ids if token not in policy.template.stops]
        whole = policy.template.text(ids, HI)
        assert "".join(pieces(policy, ids)) == whole
        stops = tuple({whole[at : at + rng.randrange(1, 5)] for at in (10, 20, 25) if whole[at : at + 1]})
        cut = whole[: min((whole.find(stop) for stop in stops if stop in whole), default=len(whole))]
        assert "".join(pieces(policy, ids, stops)) == cut


def test_a_stop_string_may_span_tokens_and_begin_inside_itself() -> None:
    policy = small_policy()
    ids = policy.template.plain.continuations(["a ababc d"])[0]
    shown = pieces(policy, ids, ("abc",))
    assert "".join(shown) == "a ab"
    assert "".join(pieces(policy, ids, ("abd", "never"))) == "a ababc d"
