"""A policy from scratch: a tokenizer trained on the corpus, and a Llama of one of several sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from rlhf.models.chatml import CHATML, END_OF_TURN, TURN
from rlhf.models.policy import PAD

# Size -> (width, layers, heads, MLP width). Its name is the number of parameters at the built-in vocabulary.
SIZES = {
    "0.1M": (64, 2, 4, 192),
    "0.15M": (72, 2, 4, 224),
    "0.2M": (80, 2, 4, 256),
    "0.3M": (96, 3, 4, 256),
    "0.5M": (112, 3, 4, 304),
    "1M": (144, 4, 4, 384),
    "2M": (192, 5, 6, 512),
    "3M": (224, 5, 7, 592),
}


EOS, UNK = "<eos>", "<unk>"


# A header such as "\nTITLE:", a word with its leading space, or a single sign. Joined, they are the text.
_WORDS = r"\n?[A-Z;]{2,}:| ?r/\w+| ?[\w']+|\n| ?[^\s\w]|\s"


def train_tokenizer(
    texts: Iterable[str], kind: str, vocab_size: int, chatml: bool = False
) -> PreTrainedTokenizerFast:
    """Train a tokenizer: `word` (a closed vocabulary of words with their space) or `bpe` (byte-level).

    Args:
        texts: what it learns from; see `tokenizer_texts`.
        kind: `word` or `bpe`.
        vocab_size: the most tokens.
        chatml: give it the template ChatML, whose end of a turn is its EOS: one token ends texts and turns.

    Raises:
        ValueError: no such kind.
    """
    eos = END_OF_TURN if chatml else EOS
    special = [PAD, eos, UNK, *([TURN] if chatml else [])]
    if kind == "word":
        tokenizer = Tokenizer(models.WordLevel(unk_token=UNK))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
        tokenizer.decoder = decoders.Fuse()
        trainer: Any = trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=special, show_progress=False
        )
    elif kind == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token=None))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        raise ValueError(f"unknown tokenizer kind {kind!r}; use 'word' or 'bpe'")
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=eos,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **({"additional_special_tokens": [TURN], "chat_template": CHATML} if chatml else {}),
    )


def tokenizer_texts(
    corpus: Iterable[Mapping[str, Any]], demonstrations: Iterable[Mapping[str, Any]]
) -> Iterator[str]:
    """The texts that a tokenizer learns from: the corpus, and the training demonstrations, so that the cue
    for an answer is a token. The turns of a conversation are texts as ChatML has them between its markers."""
    for row in corpus:
        yield row["text"]
    for row in demonstrations:
        if row["split"] == "train" and not row.get("messages"):
            yield row["prompt"] + row["completion"]
        elif row["split"] == "train":
            answer = {"role": "assistant", "content": row["completion"]}
            yield from (f"{turn['role']}\n{turn['content']}" for turn in [*row["messages"], answer])


def new_model(size: str, tokenizer: PreTrainedTokenizerFast, context: int) -> LlamaForCausalLM:
    """A Llama of one of `SIZES` with random weights.

    Raises:
        ValueError: no such size.
    """
    if size not in SIZES:
        raise ValueError(f"unknown model size {size!r}; sizes are {', '.join(SIZES)}")
    hidden, layers, heads, mlp = SIZES[size]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        # With the usual 0.02, attention this narrow takes thousands of steps before it learns anything.
        initializer_range=hidden**-0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)
