#!/usr/bin/env bash
# A copy of a model that TRL's SFTTrainer has trained answers with the original's weights.
#
# Versions: trl 1.16.0, transformers 5.23.0, torch 2.13.0 (CPU), Python 3.11.
# Behaviour: SFTTrainer puts a `forward` of its own on the model's instance and leaves it there after training. The
#   method is bound to the original, and copy.deepcopy copies the bound method as it is. So `copy.deepcopy(model)`,
#   the usual way to make the frozen reference of PPO or DPO, runs the weights of the model that goes on learning: the KL
#   to the reference stays 0, without an error.
# Expected: a deep copy uses its own weights; with all of them set to 0 its logits are 0.
# Seen: the zeroed copy's largest logit is the original's, about 0.1. `del model.forward` before copying mends it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet trl==1.16.0 transformers==5.23.0
cd "$work"
"$work/venv/bin/python" - <<'PY'
import copy

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "a", "b", "c", "d"])}
core = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
core.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
torch.manual_seed(0)
sizes = dict(vocab_size=6, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
model = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2, pad_token_id=0, eos_token_id=1))
config = SFTConfig("out", max_steps=1, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True)
rows = Dataset.from_list([{"prompt": "a b", "completion": " c d"}] * 8)
SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer).train()


def zeroed_copy(original):
    """The largest logit of a copy whose weights are all 0."""
    twin = copy.deepcopy(original)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
        return float(twin(torch.tensor([[2, 3, 4]])).logits.abs().max())


patched = zeroed_copy(model)
del model.forward
plain = zeroed_copy(model)
print(f"largest logit of the zeroed copy: {patched:.4f} after training, {plain:.4f} without the patch")
assert patched > 0.01 and plain == 0.0, "the behaviour has changed"
PY
