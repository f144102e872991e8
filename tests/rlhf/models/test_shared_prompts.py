"""Several responses to one prompt: it is read once, and each response is what it is by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from rlhf.models.sampling import check_sampling, sample

SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [3, 4], [20, 21, 22]]
STOP, PAD = 1, 0


def models() -> list[Any]:
    torch.manual_seed(0)
    windowed = MistralConfig(**SMALL, sliding_window=4)  # its layers keep the last few tokens alone
    return [LlamaForCausalLM(LlamaConfig(**SMALL)), MistralForCausalLM(windowed)]


@pytest.mark.parametrize("model", models(), ids=["llama", "mistral"])
def test_each_response_is_what_it_is_by_itself_and_its_prompt_is_read_once(model: Any) -> None:
    repeated = [PROMPTS[i] for i in (0, 0, 1, 0, 2, 1)]
    noise = torch.rand(len(repeated), 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    check_sampling(model)  # so that it does not pass the hook
    read: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )

    def responses(prompts: list[list[int]], uniforms: torch.Tensor) -> list[list[int]]:
        return sample(model, prompts, stop=[STOP], pad=PAD, temperature=1.0, uniforms=uniforms)

    together = responses(repeated, noise)
    assert read[0] == (3, 7)  # three prompts, padded to the longest
    assert all(shape[1] == 1 for shape in read[1:])
    alone = [responses([prompt], noise[i : i + 1])[0] for i, prompt in enumerate(repeated)]
    hook.remove()
    assert together == alone
    assert together[0] != together[1]  # another noise, another response
    assert len({len(row) for row in together}) > 1  # rows that end at different steps leave the batch
