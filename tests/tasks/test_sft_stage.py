"""SFT's samples: for people to see, and never what ends the stage."""

from __future__ import annotations

from tiny_models import tiny_model

from rlhf.models.policy import Policy
from rlhf.models.scratch import train_tokenizer
from rlhf.models.settled import Settled
from rlhf.models.template import as_row
from tasks.sft import SHOWN_TOKENS, sampled


def test_a_conversation_with_little_room_behind_it_is_answered_shortly() -> None:
    tokenizer = train_tokenizer(["What is one and two? It is three."] * 4, "bpe", 300, chatml=True)
    model = tiny_model("llama", tokenizer, max_position_embeddings=256)
    row = dict(as_row([{"role": "user", "content": "What is one and two?"}]))
    context = len(Policy(model, tokenizer).template.prompt(row)) + 3
    policy = Policy(model, tokenizer, settled=Settled(context=context))
    assert SHOWN_TOKENS > 3
    assert len(sampled(policy, [row])) == 1
    assert sampled(policy, []) == []
