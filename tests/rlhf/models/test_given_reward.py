"""A reward model that a user brings: without a pad token it scores, with two labels it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from rlhf.data.errors import DataError
from rlhf.data.reward_folder import why_no_reward
from rlhf.models.reward_model import load_reward, score

END = "<|end|>"


def saved(folder: Path, pad: str | None = None, labels: int = 1) -> Path:
    """A tiny reward model as `save_pretrained` writes it."""
    torch.manual_seed(0)
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        ["store it well"],
        trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, pad_token=pad)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        num_labels=labels,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pad", [None, END], ids=["no pad", "pad is EOS"])
def test_a_model_without_a_pad_of_its_own_scores_alike_alone_and_in_a_batch(
    pad: str | None, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "model", pad)
    assert why_no_reward(folder) is None
    reward = load_reward(folder)
    assert reward.pad != reward.tokenizer.eos_token_id
    rows = [{"prompt": "How?", "messages": None}] * 3
    texts = [" Well.", " Store it well, in small steps, and look at it.", " x"]
    together = score(reward, rows, texts)
    alone = [score(reward, [row], [text])[0] for row, text in zip(rows, texts, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert len({round(value, 6) for value in together}) == 3


def test_two_labels_are_refused_in_one_line_before_weights_are_read(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", labels=2)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="the model has 2 labels, and a reward model has one") as caught:
        load_reward(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "tokenizer", "said"),
    [
        (None, {}, "holds no model"),
        ({"architectures": ["LlamaForCausalLM"]}, {"eos_token": "x"}, "LlamaForCausalLM gives no score"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, {"eos_token": "x"}, "has 3 labels"),
        ({"id2label": {"0": "a"}}, None, "holds no tokenizer"),
        ({"id2label": {"0": "a"}}, {"pad_token": "x"}, "the tokenizer has no EOS token"),
        ({"id2label": {"0": "a"}}, {"eos_token": "x"}, None),
    ],
)
def test_what_is_seen_without_loading(
    config: dict[str, object] | None, tokenizer: dict[str, str] | None, said: str | None, tmp_path: Path
) -> None:
    for name, content in (("config.json", config), ("tokenizer_config.json", tokenizer)):
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    told = why_no_reward(tmp_path)
    assert (told is None) == (said is None)
    assert said is None or said in str(told)
