#!/usr/bin/env bash
# The same adapter is saved as other bytes by every process.
#
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0 (CPU), Python 3.11.
# Behaviour: LoraConfig keeps target_modules as a set, and save_pretrained writes them in the order in which the set is
#   walked, which follows from Python's hash seed of the process. With the seed left alone (as everybody does), two runs of
#   one script with one random seed save adapter_config.json with the names in another order. The weights are the same
#   bytes; the folder's hash is not. Whoever pins, caches or compares adapters by content (DVC, a registry, a build cache)
#   sees a new adapter after every run.
# Expected: the order in which the names were given, or a sorted one.
# Seen: for the hash seeds 1, 2 and 3 three files that differ, of the same four names.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0
cat >"$work/save.py" <<'PY'
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = dict(vocab_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
base = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2))
names = ["q_proj", "k_proj", "v_proj", "o_proj"]
get_peft_model(base, LoraConfig(r=2, target_modules=names)).save_pretrained(sys.argv[1])
PY
for seed in 1 2 3; do
	PYTHONHASHSEED=$seed "$work/venv/bin/python" "$work/save.py" "$work/adapter-$seed"
done
"$work/venv/bin/python" - "$work" <<'PY'
import hashlib
import json
import sys
from pathlib import Path

folders = sorted(Path(sys.argv[1]).glob("adapter-*"))
weights = {hashlib.sha256((f / "adapter_model.safetensors").read_bytes()).hexdigest() for f in folders}
orders = [tuple(json.loads((f / "adapter_config.json").read_text())["target_modules"]) for f in folders]
print(f"{len(weights)} state of the weights, {len(set(orders))} orders of target_modules:", *orders, sep="\n")
assert len(weights) == 1 and len(set(orders)) == 3, "the behaviour has changed"
assert len({frozenset(order) for order in orders}) == 1
PY
