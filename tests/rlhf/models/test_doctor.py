"""Every check of the doctor passes on what is sound, and fails on what was broken on purpose."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from small_base import DEMONSTRATIONS
from tiny_models import tiny_model

from rlhf.data.conversations import transcript
from rlhf.data.errors import DataError
from rlhf.models.doctor import Finding, cheap_checks, refuse_unsound
from rlhf.models.model_checks import check_agreement, check_reward, check_start, check_varies
from rlhf.models.policy import Policy
from rlhf.models.reward_model import untrained_reward
from rlhf.models.scratch import train_tokenizer
from rlhf.models.template import Chat, Plain

TALKS = [
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"What is {n} and one?"},
        {"role": "assistant", "content": "Say it again."},
        {"role": "user", "content": f"{n} and one."},
    ]
    for n in ("one", "two", "six")
]
CHATS: list[dict[str, Any]] = [
    {"prompt": transcript(talk), "messages": talk, "completion": f"It is {n}."}
    for talk, n in zip(TALKS, ("two", "three", "seven"), strict=True)
]
TEXTS: list[dict[str, Any]] = [{**row, "messages": None} for row in DEMONSTRATIONS[:8]]
WORDS = [row["prompt"] + row["completion"] for row in [*CHATS, *TEXTS]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(WORDS, "bpe", 400, chatml=True).save_pretrained(path)
    return path


@pytest.fixture
def policy() -> Policy:
    tokenizer = train_tokenizer(WORDS, "bpe", 400, chatml=True)
    return Policy(tiny_model("llama", tokenizer, max_position_embeddings=256), tokenizer)


def with_bos(policy: Policy, template: Any) -> Policy:
    """The policy on a tokenizer that begins its texts with a token of its own."""
    policy.tokenizer.add_special_tokens({"bos_token": "<start>"})
    policy.tokenizer.add_bos_token = True
    policy.template = template(policy.tokenizer)
    return policy


def failed(findings: list[Finding]) -> list[str]:
    return [finding.name for finding in findings if finding.ok is False]


@pytest.mark.parametrize("rows", [TEXTS, CHATS], ids=["texts", "conversations"])
def test_what_is_sound_passes_and_every_finding_says_what_it_means(policy, folder, rows) -> None:
    findings = cheap_checks(policy, rows, folder)
    assert failed(findings) == []
    assert len(findings) == 9
    assert all(finding.ok for finding in findings)
    assert all(finding.seen and finding.means.endswith(".") and finding.mend for finding in findings)
    refuse_unsound(policy, rows, folder)


def test_a_template_that_drops_a_turn(policy) -> None:
    policy.tokenizer.chat_template = policy.tokenizer.chat_template.replace("message['role']", "message.role")
    policy.tokenizer.chat_template = (
        "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}"
        + policy.tokenizer.chat_template
    )
    policy.template = Chat(policy.tokenizer)
    assert failed(cheap_checks(policy, CHATS)) == ["every turn stands in the rendering"]
    with pytest.raises(
        DataError, match=r"every turn stands in the rendering: .*drops turn 1 \(system\)"
    ) as error:
        refuse_unsound(policy, CHATS)
    assert "\n" not in str(error.value)


class OtherPrompt(Chat):
    """Trains on another prompt than it generates from."""

    def pairs(self, rows: Any, texts: Any) -> Any:
        prompts, answers = super().pairs(rows, texts)
        return [ids[1:] for ids in prompts], answers


class NoEnd(Chat):
    def pairs(self, rows: Any, texts: Any) -> Any:
        prompts, answers = super().pairs(rows, texts)
        return prompts, [ids[:-1] for ids in answers]


class LineBreakBehind(Chat):
    def pairs(self, rows: Any, texts: Any) -> Any:
        prompts, answers = super().pairs(rows, texts)
        more = self.tokenizer("\n", add_special_tokens=False)["input_ids"]
        return prompts, [ids + more for ids in answers]


class Naive(Chat):
    """Tokenises a rendering with whatever the user wrote in it."""

    def prompts(self, rows: Any) -> Any:
        return [self.tokenizer(row["prompt"], add_special_tokens=False)["input_ids"] for row in rows]


class LosesAWord(Chat):
    def text(self, ids: Any, row: Any = None) -> str:
        return super().text(ids, row).partition(" ")[2]


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (OtherPrompt, "the prompt begins the whole"),
        (NoEnd, "the end of the turn is learnt, and nothing behind it"),
        (LineBreakBehind, "the end of the turn is learnt, and nothing behind it"),
        (Naive, "a user's text makes no special token"),
        (LosesAWord, "ids give the text back"),
    ],
)
def test_a_template_that_is_broken(policy, broken, name) -> None:
    policy.template = broken(policy.tokenizer)
    assert name in failed(cheap_checks(policy, CHATS))
    with pytest.raises(DataError):
        refuse_unsound(policy, CHATS)


class TwoStarts(Plain):
    def prompts(self, rows: Any) -> Any:
        return [self.start + ids for ids in super().prompts(rows)]


def test_a_template_with_two_starts_or_none(policy) -> None:
    assert failed(cheap_checks(with_bos(policy, Chat), CHATS)) == []
    assert failed(cheap_checks(with_bos(policy, TwoStarts), TEXTS)) == ["BOS stands at the start, once"]


def test_a_template_that_reads_the_clock(policy) -> None:
    policy.tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}" + policy.tokenizer.chat_template
    policy.template = Chat(policy.tokenizer)
    assert failed(cheap_checks(policy, CHATS)) == []  # its date stands still
    policy.template.source = policy.tokenizer.chat_template
    assert failed(cheap_checks(policy, CHATS)) == ["the same ids on two days"]


@pytest.mark.parametrize(
    ("pad", "seen"), [(None, "no pad token"), ("end", "also ends an answer"), (10**6, "the embeddings have")]
)
def test_a_pad_token_that_is_none_of_its_own(policy, pad, seen) -> None:
    policy.pad = policy.stops[0] if pad == "end" else pad
    findings = [finding for finding in cheap_checks(policy, TEXTS) if finding.ok is False]
    assert [finding.name for finding in findings] == ["the pad token is one of its own"]
    assert seen in findings[0].seen


def test_a_tokenizer_that_is_not_that_of_its_file(policy, folder) -> None:
    policy.tokenizer = train_tokenizer(WORDS[:2], "bpe", 300, chatml=True)
    policy.template = Chat(policy.tokenizer)
    assert "the tokenizer's ids are those of its file" in failed(cheap_checks(policy, CHATS, folder))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sampling_and_training_agree_unless_the_model_computes_otherwise_for_one_of_them(
    policy, dtype
) -> None:
    policy.model.to(dtype)
    assert check_agreement(policy, CHATS).ok

    def other_logits(module: Any, inputs: Any, output: Any) -> Any:
        output.logits = output.logits * 1.5  # as a model with a scale that only its own forward knows
        return output

    policy.model.register_forward_hook(other_logits)
    finding = check_agreement(policy, CHATS)
    assert finding.ok is False
    assert "nats" in finding.seen


def test_a_reference_that_is_another_model(policy) -> None:
    texts = [row["completion"] for row in CHATS]
    assert check_start(policy, policy, CHATS, texts).ok
    other = Policy(copy.deepcopy(policy.model), policy.tokenizer)
    with torch.no_grad():
        next(other.model.parameters()).mul_(1.1)
    assert check_start(policy, other, CHATS, texts).ok is False


def test_scores_that_depend_on_what_stands_beside(policy) -> None:
    reward = untrained_reward(policy, seed=0)
    answers = [["It is one.", "It is six, and more than that."]] * len(CHATS)
    assert [finding.ok for finding in check_reward(reward, CHATS, answers)] == [True, True]

    def mixed(module: Any, inputs: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.mean(0, keepdim=True)
        return output

    reward.model.base_model.register_forward_hook(mixed)
    assert [finding.ok for finding in check_reward(reward, CHATS, answers)] == [False, False]


def test_a_reward_that_never_varies() -> None:
    assert check_varies("format", [0.0, 1.0, 0.0]).ok
    assert check_varies("format", [1.0, 1.0, 1.0]).ok is False
    assert check_varies("format", [1.0]).ok is None
