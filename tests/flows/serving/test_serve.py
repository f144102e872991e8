"""The served policy answers the real `openai` client as the pipeline samples, streamed and not."""

# pytest finds fixtures by the names of arguments:
# ruff: noqa: F401, F811

from __future__ import annotations

from typing import Any

import openai
import pytest
import torch
from chat_policies import TEXTS
from openai import OpenAI
from served_policy import HI, LONGEST, TURNS, ask, client, policy, running, streamed

from flows.serving.engine import nucleus
from rlhf.models.policy import Policy
from rlhf.models.sampling import generate
from rlhf.models.template import as_row


@pytest.mark.parametrize("messages", [HI, TURNS])
def test_answers_are_those_of_the_pipeline(client: OpenAI, policy: Policy, messages: Any) -> None:
    greedy = ask(client, messages, temperature=0)
    assert [greedy.choices[0].message.content] == generate(
        policy, [as_row(messages)], temperature=0, max_new_tokens=LONGEST, seed=0
    )
    # without a word on it, a request is sampled as the policy was judged
    sampled = ask(client, messages, n=3, seed=5)
    ours = generate(policy, [as_row(messages)] * 3, temperature=0.7, max_new_tokens=LONGEST, seed=5)
    assert [choice.message.content for choice in sampled.choices] == ours
    assert len(set(ours)) == 3
    usage, prompt = sampled.usage, policy.template.prompt(as_row(messages))
    assert usage.prompt_tokens == len(prompt)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 3 <= usage.completion_tokens <= 3 * LONGEST
    assert sampled.model == "policy"
    assert sampled.system_fingerprint == "fp_1"


def test_a_stream_is_the_same_text_in_whole_characters(client: OpenAI) -> None:
    whole = ask(client, n=3, seed=7, max_tokens=60, temperature=1.5)
    chunks = list(
        ask(
            client,
            n=3,
            seed=7,
            max_tokens=60,
            temperature=1.5,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts, reasons, usage = streamed(chunks)
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage == whole.usage
    assert chunks[-1].choices == []
    assert len(chunks) > 20  # they come while the model writes
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1


def test_text_completions_and_several_prompts(client: OpenAI, policy: Policy) -> None:
    made = client.completions.create(model="policy", prompt=TEXTS[:2], seed=3, n=2, temperature=1)
    rows = [as_row(text) for text in TEXTS[:2] for _ in range(2)]
    assert [choice.text for choice in made.choices] == generate(
        policy, rows, temperature=1, max_new_tokens=LONGEST, seed=3
    )
    stream = client.completions.create(
        model="policy", prompt=TEXTS[:2], seed=3, n=2, temperature=1, stream=True
    )
    assert streamed(stream)[0] == {choice.index: choice.text for choice in made.choices}
    assert made.usage.prompt_tokens == sum(len(policy.template.prompt(as_row(text))) for text in TEXTS[:2])


def test_the_same_seed_is_the_same_text_and_none_is_another(client: OpenAI) -> None:
    said = [ask(client, seed=seed).choices[0].message.content for seed in (1, 1, 2, -4)]
    assert said[0] == said[1]
    assert len(set(said)) == 3
    assert len({ask(client).choices[0].message.content for _ in range(4)}) > 1


def test_an_answer_ends_at_a_token_a_string_or_the_limit(client: OpenAI, policy: Policy) -> None:
    text = ask(client, temperature=0, max_tokens=40).choices[0]
    assert text.finish_reason == "length"
    written = text.message.content
    stop = written[10:13]
    cut = ask(client, temperature=0, max_tokens=40, stop=[stop, "never there"])
    assert cut.choices[0].message.content == written[: written.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage.completion_tokens < 40  # sampling has ended there, too
    stream = ask(client, temperature=0, max_tokens=40, stop=stop, stream=True)
    texts, reasons, _ = streamed(stream)
    assert texts[0] == written[: written.index(stop)]
    assert reasons == {0: "stop"}

    ids = policy.template.answer(as_row(HI), "x")
    ends = policy.model.lm_head.weight.detach().clone()
    with torch.no_grad():  # whatever it reads, it ends the turn at once
        hidden = policy.model.model(torch.tensor([policy.template.prompt(as_row(HI))])).last_hidden_state
        policy.model.lm_head.weight[ids[-1]] = 10 * hidden[0, -1]
    try:
        ended = ask(client, temperature=0)
    finally:
        with torch.no_grad():
            policy.model.lm_head.weight.copy_(ends)
    assert (ended.choices[0].message.content, ended.choices[0].finish_reason) == ("", "stop")
    assert ended.usage.completion_tokens == 1


def test_the_likeliest_tokens_by_hand() -> None:
    chances = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.8, 0.1]])
    kept = [
        [i for i, logit in enumerate(row) if logit > -torch.inf]
        for p in (0.0, 0.5, 0.51, 0.85, 1.0)
        for row in nucleus(chances.log(), 1.0, p)
    ]
    assert kept == [[0], [1], [0], [1], [0, 2], [1], [0, 1, 2], [0, 1], [0, 1, 2], [0, 1, 2]][: len(kept)]
    cooler = nucleus(chances.log(), 0.5, 0.6)[0]  # .25, .04, .09 of .38
    assert [bool(logit > -torch.inf) for logit in cooler] == [True, False, False]


def test_top_p_draws_from_the_likeliest_alone(client: OpenAI) -> None:
    greedy = ask(client, temperature=0).choices[0].message.content
    assert ask(client, temperature=2, top_p=0, seed=3).choices[0].message.content == greedy
    assert ask(client, temperature=2, seed=3).choices[0].message.content != greedy
