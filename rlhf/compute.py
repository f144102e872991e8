"""How arithmetic is done: device, precision, threads, processes, determinism."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Any

import torch
from accelerate import DistributedType, PartialState
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import set_seed


def deterministic(seed: int, threads: int) -> None:
    """Seed everything and fix the number of threads, on which the rounding of sums depends."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling fresh memory with NaN would make training steps five times as slow.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _keep_memory()
    set_seed(seed)


def _keep_memory() -> None:
    """Let glibc keep freed memory: every step needs the same tensors, and page faults take a sixth of it."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
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


def arithmetic(precision: str, device: torch.device, width: int) -> torch.dtype:
    """The dtype that `precision` means for a model of this width on this device.

    On CPUs bf16 pays off only with AMX tiles: AVX512-bf16 alone was slower than fp32 (dev/LOG.md), and narrow
    models spend their time elsewhere.
    """
    if precision == "auto":
        if device.type == "cuda":
            good = torch.cuda.is_bf16_supported()
        else:
            good = torch.cpu._is_amx_tile_supported() and width >= 256
        precision = "bf16" if good else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32
