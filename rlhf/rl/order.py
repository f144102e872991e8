"""What each step of PPO takes up: its prompts, its episodes, its noise, and this process's share of them.

All of it follows from the seed and the number of the update or step alone. So a resumed run repeats nothing
and misses nothing, and processes agree without exchanging a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlhf.models.attention import LONGEST
from rlhf.models.batches import row_batches, token_batches
from rlhf.rl.config import PPOConfig

# Of a micro-batch without padding, at most: more cost memory, and with fewer, products of matrices are slower
# and gradients of weights are added up more often (figures in dev/LOG.md).
ROW_TOKENS = 1408


@dataclass
class Order:
    """The order of a run.

    Attributes:
        args: the settings of the run.
        prompts: how many prompts there are.
        process, processes: the rank of this process, and how many there are.
        overhead: what one more micro-batch costs, in tokens; see `micro_batch_overhead`.
        in_rows: whether the networks take short sequences without padding; see `rlhf.models.one_row`.
    """

    args: PPOConfig
    prompts: int
    process: int = 0
    processes: int = 1
    overhead: int | None = None
    in_rows: bool = False

    def prompts_of(self, update: int) -> list[int]:
        """The prompts of an update, [batch_size]; each pass over them is a fresh permutation."""
        size, n = self.args.batch_size, self.prompts
        needed = range(update * size, (update + 1) * size)
        order = {p: _permutation(n, self.args.seed, p) for p in {i // n for i in needed}}
        return [int(order[i // n][i % n]) for i in needed]

    def noise_of(self, update: int) -> torch.Tensor:
        """The noise that samples the responses of an update, in [0, 1), [batch_size, response_length]."""
        return torch.rand(
            self.args.batch_size,
            self.args.response_length,
            generator=torch.Generator().manual_seed(self.args.seed + 1_000_003 * (update + 1)),
            dtype=torch.float64,
        )

    def mini_batches(self, update: int, epoch: int) -> list[list[int]]:
        """The episodes of each step of an epoch; the first keeps their order, which is random already."""
        size, order = self.args.batch_size, list(range(self.args.batch_size))
        if epoch:
            order = _permutation(size, self.args.seed + 1 + update, epoch).tolist()
        mini = size // self.args.num_mini_batches
        return [order[start : start + mini] for start in range(0, size, mini)]

    def texts_of(self, step: int, texts: int) -> list[int]:
        """The PPO-ptx texts of an optimiser step out of `texts`, [ptx_batch_size]."""
        return torch.randint(
            texts,
            (self.args.ptx_batch_size,),
            generator=torch.Generator().manual_seed(self.args.seed + 15_485_863 * (step + 1)),
        ).tolist()

    def share(self, rows: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """This process's share of some rows, the longest first; every process gets about as many tokens."""
        return sorted(rows, key=lambda i: (-lengths[i], i))[self.process :: self.processes]

    def micro_batches(self, rows: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """This process's share of some rows, in micro-batches of like length."""
        share, budget = self.share(rows, lengths), self.args.micro_batch_tokens
        beside = [i for i in share if not self.in_rows or lengths[i] > LONGEST]
        in_rows = [i for i in share if self.in_rows and lengths[i] <= LONGEST]
        groups = token_batches([lengths[i] for i in beside], budget, self.overhead)
        of_rows = row_batches([lengths[i] for i in in_rows], min(budget, ROW_TOKENS))
        return [[beside[i] for i in group] for group in groups] + [
            [in_rows[i] for i in group] for group in of_rows
        ]


def micro_batch_overhead(device: torch.device, width: int) -> int | None:
    """What one more micro-batch costs a model of this width on this device, in tokens.

    On CPUs it is the start of every operation and one more addition of the weights' gradients (measured in
    dev/LOG.md). None means that micro-batches should be few and full: narrow models and GPUs spend their time
    on starting operations.
    """
    return 64 if device.type == "cpu" and width >= 128 else None


def _permutation(n: int, *key: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(k * 7919**i for i, k in enumerate(key)) % 2**63)
    return torch.randperm(n, generator=generator)
