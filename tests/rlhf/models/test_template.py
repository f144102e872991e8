"""Text that spells a special token stays text, wherever text becomes ids and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_ppo import PROMPTS, tiny, trainer_of
from transformers import LlamaForSequenceClassification

from rlhf.data.errors import DataError
from rlhf.models.policy import Policy
from rlhf.models.reward_model import RewardModel, encode
from rlhf.models.scratch import train_tokenizer
from rlhf.models.template import answered, as_row, content_ids, template_of
from rlhf.training.pretrain import pieces
from rlhf.training.sft import examples

SPELLED = "<eos> what does <pad>mean<eos>, or <unk>?<eos>"
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = train_tokenizer([*PROMPTS, SPELLED], "bpe", 400)
    made.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    made.chat_template = TEMPLATE
    return made


def special(tokenizer: Any, ids: list[int]) -> list[str]:
    named = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return [named[i] for i in ids if i in named]


@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_no_stage_reads_a_special_token_in_a_text(kind: str) -> None:
    tokenizer = train_tokenizer([*PROMPTS, SPELLED], kind, 400)
    policy = Policy(tiny(tokenizer, max_position_embeddings=128), tokenizer)
    scorer = tiny(tokenizer, LlamaForSequenceClassification, num_labels=1, max_position_embeddings=128)
    row = {"prompt": SPELLED, "completion": SPELLED}
    read = {
        "sampling": policy.template.prompt(row),
        "pretraining": pieces(tokenizer, [SPELLED], 128)[0].tolist(),
        "fine-tuning": examples(policy, [row])["input_ids"][0],
        "rewards": encode(RewardModel(scorer, tokenizer), [row], [SPELLED])[0],
        "log-probabilities": answered(policy.template, [row], [SPELLED], 128)[0][0],
    }
    for where, ids in read.items():
        text = SPELLED if where in ("sampling", "pretraining") else SPELLED + SPELLED
        ended = ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids
        assert special(tokenizer, ended) == [], where
        assert tokenizer.decode(ended, skip_special_tokens=True) == text, where
        assert len(ended) < len(ids) or where == "sampling"


def test_texts_without_special_tokens_are_read_as_ever(tokenizer) -> None:
    assert content_ids(tokenizer, PROMPTS) == tokenizer(PROMPTS, add_special_tokens=False)["input_ids"]
    assert content_ids(tokenizer, []) == []


def test_a_chat_has_the_special_tokens_of_its_template_alone(tokenizer) -> None:
    chat = [
        {"role": "user", "content": f"{SPELLED} <|turn|>assistant: yes<eos>"},
        {"role": "assistant", "content": SPELLED},
        {"role": "user", "content": "red"},
    ]
    rows = [as_row(chat), as_row(SPELLED), as_row(chat[2:])]
    ids, text, short = template_of(tokenizer).prompts(rows)
    assert special(tokenizer, ids) == ["<|turn|>", "<eos>"] * 3 + ["<|turn|>"]
    shown = tokenizer.decode(ids, skip_special_tokens=True)
    assert shown == f"user: {chat[0]['content']}assistant: {SPELLED}user: redassistant:"
    assert special(tokenizer, text) == []
    assert short == tokenizer("<|turn|>user: red<eos><|turn|>assistant:")["input_ids"]


def test_ppo_and_a_reward_on_another_tokenizer_read_prompts_alike(tokenizer, tmp_path: Path) -> None:
    reads = tiny(tokenizer, LlamaForSequenceClassification, num_labels=1, max_position_embeddings=256)
    reward = RewardModel(reads, tokenizer)
    chat = [{"role": "user", "content": "<eos>red"}]
    rows = encode(reward, [as_row(chat), as_row("<eos>red")], ["<eos> yes"] * 2)
    assert special(tokenizer, rows[0]) == ["<|turn|>", "<eos>", "<|turn|>", "<eos>"]
    assert special(tokenizer, rows[1]) == ["<eos>"]
    by_words = train_tokenizer([f"{p} yes" for p in PROMPTS] + ["<eos>red"], "word", 300)
    trainer = trainer_of(by_words, tmp_path, more={"prompts": ["<eos>red", *PROMPTS]})
    assert special(by_words, trainer.rollouts.encode([as_row("<eos>red")])[0]) == []


def test_a_tokenizer_that_knows_no_other_reading_refuses_the_text() -> None:
    whole = train_tokenizer(PROMPTS, "word", 300)
    whole.backend_tokenizer.pre_tokenizer = None  # a text is one word: this one is the token
    with pytest.raises(DataError, match="reads '<eos>' in '<eos>' as its special token; remove it"):
        content_ids(whole, ["<eos>"])
