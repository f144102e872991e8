#!/usr/bin/env bash
# A frozen LoRA adapter learns again after one look at the reference.
#
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0 (CPU), Python 3.11.
# Behaviour: `with model.disable_adapter(): ...` is how RLHF code asks the base model for the reference's log-probabilities.
#   Leaving the block sets requires_grad on every weight of the active adapter, also on those that were frozen on purpose
#   (the lower layers, say); `set_adapter` does the same. Weights that no optimiser holds only waste memory; an optimiser
#   that holds them trains what was frozen.
# Expected: leaving the block restores what was there before.
# Seen: of layer 0's two adapter weights 0 want gradients before the block and 2 after it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0
"$work/venv/bin/python" - <<'PY'
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

sizes = dict(vocab_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
base = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2))
model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))
first_layer = [weight for name, weight in model.named_parameters() if "layers.0." in name and "lora_" in name]
for weight in first_layer:
    weight.requires_grad_(False)
before = sum(weight.requires_grad for weight in first_layer)
with model.disable_adapter():
    pass
after = sum(weight.requires_grad for weight in first_layer)
print(f"adapter weights of layer 0 that want gradients: {before} before the block, {after} after it")
assert (before, after) == (0, 2), "the behaviour has changed"
PY
