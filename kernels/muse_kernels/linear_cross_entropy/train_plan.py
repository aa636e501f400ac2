"""How the tensor-train head's kernels cut their work: the table's shape and the tiles of a program, by plain rules."""

from dataclasses import dataclass

import torch
from torch import Tensor

from muse_kernels.linear_cross_entropy.blocks import even_splits, is_roomy, padded, split_budget

MOST_RANKS = 8


@dataclass(frozen=True)
class TrainPlan:
    """A table's sizes, and what one program works on at a time: some tokens, groups of columns, ranks."""

    vocab_size: int
    v1: int
    v2: int
    rank: int
    d1: int
    d2: int
    tokens: int
    group: int  # values of i1, each with v2 columns
    ranks: int
    columns: int  # of the v2

    @property
    def groups(self) -> int:
        """Groups that v1 makes."""
        return -(-self.v1 // self.group)

    @property
    def column_tiles(self) -> int:
        """Tiles of columns that v2 makes."""
        return -(-self.v2 // self.columns)

    @property
    def chunks(self) -> int:
        """Chunks that the ranks make."""
        return -(-self.rank // self.ranks)

    @property
    def right_shape(self) -> tuple[int, int, int]:
        """Of the rotated second core, padded to whole tiles."""
        return self.column_tiles * self.columns, self.chunks * self.ranks, padded(self.d2)

    def token_tiles(self, tokens: int) -> int:
        """Tiles that these tokens make."""
        return -(-tokens // self.tokens)


def train_plan(x: Tensor, core1: Tensor, core2: Tensor, vocab_size: int) -> TrainPlan:
    """Tiles whose rows (token, i1) and small products, one a token, fill matrix instructions; 32 KiB of x in 16 bits.

    Float32, multiplied outside the matrix units, and little shared memory take smaller ones.
    """
    (v1, rank, d1), (v2, _, d2) = core1.shape, core2.shape
    tight = x.dtype == torch.float32 or not is_roomy(x.device)
    rows, x_elements, depth = (32, 1 << 12, 64) if tight else (64, 1 << 14, 256)
    ranks = min(1 << (rank - 1).bit_length(), max(1, depth // padded(d2)), MOST_RANKS)
    tokens = max(1, min(16, x_elements // (padded(d1) * padded(d2))))
    group = max(16 // ranks, rows // tokens)
    columns = 32 if tight else 64 if ranks * padded(d2) > 128 else 128
    tokens = min(tokens, max(1, rows // group))
    return TrainPlan(vocab_size, v1, v2, rank, d1, d2, tokens, group, ranks, min(columns, padded(v2)))


def core_splits(plan: TrainPlan, core1: Tensor, core2: Tensor, tokens: int) -> tuple[int, int]:
    """Parts of the groups and of the tokens in the cores' gradients; each part leaves shares of a core in float32."""
    budget = split_budget(tokens, plan.vocab_size, core1.element_size())
    groups = max(1, min(plan.groups, budget // (core2.numel() * 4)))
    limit = budget // ((groups * core2.numel() + plan.column_tiles * core1.numel()) * 4)
    programs = groups * plan.column_tiles * plan.chunks
    return groups, even_splits(programs, plan.token_tiles(tokens), limit)
