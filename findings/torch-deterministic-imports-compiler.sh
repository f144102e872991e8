#!/usr/bin/env bash
# torch.use_deterministic_algorithms loads torch's compiler, which nothing of it needs: most of a second for a switch.
#
# Version: torch 2.13.0, Python 3.11.
# Behaviour: the first call of torch.use_deterministic_algorithms(True) in a process, in eager mode, imports
#   torch._inductor with sympy and some 800 modules, to set a flag of the compiler. torch.set_deterministic_debug_mode,
#   which the same page documents as another way to the same state, imports nothing.
# Expected: that a switch of eager mode costs nothing, or that both ways cost the same.
# Seen: 828 modules and 1.7 s beside none and .0001 s, with the same state afterwards.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.11}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy
"$work/venv/bin/python" - <<'PY'
import sys
import time

import torch


def called(switch):
    before, started = set(sys.modules), time.perf_counter()
    switch()
    return set(sys.modules) - before, time.perf_counter() - started


def state():
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


light, seconds = called(lambda: torch.set_deterministic_debug_mode("warn"))
after = state()
print(f"set_deterministic_debug_mode: {len(light)} modules, {seconds:.4f} s, {after}")
torch.set_deterministic_debug_mode("default")
heavy, seconds = called(lambda: torch.use_deterministic_algorithms(True, warn_only=True))
print(f"use_deterministic_algorithms: {len(heavy)} modules, {seconds:.4f} s, {state()}")
assert not light and len(heavy) > 300
assert any(name.startswith("torch._inductor") for name in heavy)
assert after == state() == (True, True)
PY
echo "as described"
