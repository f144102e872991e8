"""How arithmetic is done: device, precision, threads, processes, determinism."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import set_seed
from transformers.pytorch_utils import Conv1D


def deterministic(seed: int, threads: int) -> None:
    """Seed everything and fix the number of threads, on which the rounding of sums depends."""
    torch.set_num_threads(threads)
    # This is use_deterministic_algorithms(True, warn_only=True) without its import of the compiler, most of a
    # second; the variable is for a torch.compile.
    torch.set_deterministic_debug_mode("warn")
    os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")
    # Filling fresh memory with NaN would make training steps five times as slow.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _keep_memory()
    set_seed(seed)


def _keep_memory() -> None:
    """Let glibc keep freed memory: every step needs the same tensors, and page faults take a sixth of it.

    Blocks from 32 MB on go back to the system. Kept, they would lie between smaller ones that live on, where
    the next block of that size does not fit: the logits of 2,048 tokens, computed in parts of 64 MB, took 3.4
    GB in place of .6.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD
        mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def this_device() -> torch.device:
    """Where this process computes: on the GPU that its launcher gives it, else on the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def processes() -> int:
    """How many processes train together, as their launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def shard_on_cpus() -> None:
    """Make accelerate's FSDP shard over CPU processes, too; to be called between arguments and trainer.

    accelerate honours FSDP only for processes that have an accelerator each. Without this, every CPU process
    would silently hold the whole model, although torch itself can shard over gloo.
    """
    state = PartialState()
    if (
        os.environ.get("ACCELERATE_USE_FSDP") == "true"
        and state.distributed_type == DistributedType.MULTI_CPU
    ):
        state.distributed_type = DistributedType.MULTI_GPU


def part_of(whole: torch.Tensor, p: Any) -> torch.Tensor:
    """The part of a tensor that this process keeps for a parameter: all of it unless FSDP has sharded it."""
    if not isinstance(p, DTensor):
        return whole
    return distribute_tensor(whole, p.device_mesh, p.placements, src_data_rank=None)


def autocast(device: torch.device, dtype: torch.dtype) -> Any:
    """Autocast to `dtype`; does nothing for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def casts_kept(device: torch.device) -> Any:
    """A block at whose end alone the casts of learning weights are dropped, which `autocast` makes in it.

    Else each forward pass casts all weights. Within the block no weight may change, and passes with and
    without gradients must not mix: a cast that was made without them leads to none.
    """
    return torch.autocast(device.type, enabled=False)


def arithmetic(precision: str, device: torch.device, width: int) -> torch.dtype:
    """The dtype that `precision` means for a model of this width on this device.

    Narrow models spend their time elsewhere than in products, so on CPUs they stay in fp32.
    """
    if precision == "auto":
        cuda = device.type == "cuda"
        good = torch.cuda.is_bf16_supported() if cuda else width >= _wide_enough_for_bf16()
        precision = "bf16" if good else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _wide_enough_for_bf16() -> float:
    """From which width on a model computes faster in bf16 than in fp32 on this CPU (figures in dev/LOG.md).

    AMX tiles multiply faster by four times and more, and AVX512-bf16 of AMD's Zen 4 and later by twice.
    Intel's AVX512-bf16 without AMX ran at half the speed of fp32, so its flag alone does not tell.
    """
    cpu = torch.cpu.get_capabilities()
    if cpu.get("avx512_bf16", False) and "AMD" in cpu.get("cpu_name", ""):
        return 128
    return 256 if torch.cpu._is_amx_tile_supported() else math.inf


def compute_in_float32(model: Any, everywhere: bool = False) -> None:
    """Let a model whose weights lie in bfloat16 compute in float32: where this processor does so faster, or
    everywhere, as the precision `fp32` asks for.

    On a CPU without instructions for it a product in bfloat16 takes five to ten times as long as one in
    float32 (dev/LOG.md). The matrices of the layers, which are most of a model, stay in bfloat16, and each is
    a float32 matrix only while it is multiplied with. Embeddings, norms and head become float32. No-op for
    models in float32.
    """
    narrow = {p for p in model.parameters() if p.dtype == torch.bfloat16}
    width = model.config.get_text_config().hidden_size
    faster = model.device.type == "cpu" and arithmetic("auto", model.device, width) == torch.float32
    if not narrow or not (faster or everywhere):
        return
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for module in model.modules():
        kind = _OF_ITS_INPUT.get(type(module))
        if kind and module is not head and module.weight in narrow:
            module.__class__ = kind
            narrow.remove(module.weight)
    for p in narrow:
        p.data = p.data.float()


class _Product(torch.autograd.Function):
    """states @ weight.T in the type of the states; no wide copy of the weight, which is fixed, is kept."""

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return states @ weight.to(states.dtype).T

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (weight,) = ctx.saved_tensors
        return gradients[0] @ weight.to(gradients[0].dtype), None


def _product(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if weight.requires_grad and torch.is_grad_enabled():
        return nn.functional.linear(states, weight.to(states.dtype), bias)
    out = _Product.apply(states, weight)
    return out if bias is None else out + bias


class _Linear(nn.Linear):
    """A linear layer that computes in the type of its input."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if states.dtype == self.weight.dtype or torch.is_autocast_enabled(states.device.type):
            return super().forward(states)
        return _product(states, self.weight, self.bias)


class _Conv1D(Conv1D):
    """GPT-2's linear layer, whose weight is the other way round, computing in the type of its input."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if states.dtype == self.weight.dtype or torch.is_autocast_enabled(states.device.type):
            return super().forward(states)
        return _product(states, self.weight.T, self.bias)


# A layer that was changed before stays as it is.
_OF_ITS_INPUT: dict[type, type] = {nn.Linear: _Linear, _Linear: _Linear, Conv1D: _Conv1D, _Conv1D: _Conv1D}


class _CastOnce(nn.Linear):
    """A frozen linear layer that keeps its weight in the type of the autocast, in place of a cast a pass."""

    _narrow: tuple[Any, torch.Tensor] | None = None

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        device, weight = states.device.type, self.weight
        if not torch.is_autocast_enabled(device) or weight.requires_grad:
            return super().forward(states)
        key = (torch.get_autocast_dtype(device), weight.data_ptr(), weight._version)
        if self._narrow is None or self._narrow[0] != key:
            self._narrow = (key, weight.detach().to(key[0]))
        return nn.functional.linear(states, self._narrow[1], self.bias)


def cast_frozen_once(model: nn.Module) -> None:
    """Let the frozen matrices of a model be cast for autocast once, not in every pass.

    The model, its state and what is saved of it stay as they are; the casts take half of the matrices'
    memory.
    """
    for module in model.modules():
        if type(module) is nn.Linear and (module.weight.dtype, module.weight.requires_grad) == _FROZEN:
            module.__class__ = _CastOnce


_FROZEN = (torch.float32, False)
