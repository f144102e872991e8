#!/usr/bin/env bash
# Mamba takes past_key_values, ignores it, and answers as if the text began with the last token.
#
# Versions: transformers 5.23.0, torch 2.13.0 (CPU), Python 3.11.
# Behaviour: the state of MambaForCausalLM is called cache_params. A sampling loop written for the library's other causal
#   models hands the cache on as past_key_values, which every causal model's forward takes; Mamba's swallows it with the other
#   keyword arguments. The step then runs without its context, and the sampled text is of another distribution.
# Expected: a TypeError, or the cache used.
# Seen: the last token's logits differ from the whole text's by about 0.1 with past_key_values, by 1e-7 with cache_params.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.23.0
"$work/venv/bin/python" - 2>/dev/null <<'PY'
import torch
from transformers import MambaConfig, MambaForCausalLM

torch.manual_seed(0)
model = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=2)).eval()
ids = torch.tensor([[5, 9, 21, 3, 17, 8]])
with torch.no_grad():
    whole = model(ids).logits[0, -1]
    state = {name: model(ids[:, :-1], use_cache=True).cache_params for name in ("past_key_values", "cache_params")}
    apart = {name: model(ids[:, -1:], use_cache=True, **{name: state[name]}).logits[0, -1] for name in state}
differences = {name: float((whole - logits).abs().max()) for name, logits in apart.items()}
print(f"largest difference of the next token's logits: {differences}")
assert differences["past_key_values"] > 0.05 and differences["cache_params"] < 1e-4, "the behaviour has changed"
PY
