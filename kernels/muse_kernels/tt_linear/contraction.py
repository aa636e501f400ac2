"""The tensor-train head on one chunk of tokens, as plain matrix products; shared with the fused loss.

Y[c, i, r, b] = sum_a core1[i, r, a] x[c, a, b]; logits[c, i, j] = sum_{r, b} Y[c, i, r, b] core2[j, r, b].
Contracting core1 first costs least, as d2 <= d1, and leaves Y in the order that the second product reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from muse_kernels.chunks import chunk_length, slices
from muse_kernels.precision import accumulation_dtype, add_product_
from muse_kernels.tensor_train import as_matrices, rotate, rotate_backward


@dataclass(frozen=True)
class Head:
    """A tensor-train table as the two matrices that the contraction multiplies by."""

    left: Tensor  # (v1 * rank, d1): core1
    right: Tensor  # (v2, rank * d2): core2, rotated
    d2: int
    rank: int

    @staticmethod
    def of(core1: Tensor, core2: Tensor, theta: Tensor) -> "Head":
        """The head of these cores."""
        return Head(core1.flatten(0, 1), rotate(core2, theta).flatten(1), core2.shape[2], core2.shape[1])

    @property
    def padded_vocab(self) -> int:
        """v1 * v2: the table's rows before the crop to the vocabulary."""
        return self.left.shape[0] // self.rank * self.right.shape[0]

    def chunks(self, x: Tensor) -> Iterator[slice]:
        """Slices of the tokens whose Y and logits take about the bytes of x."""
        token_bytes = x.element_size() * (self.padded_vocab + self.left.shape[0] * self.d2)
        x_bytes = x.element_size() * x.shape[0] * x.shape[1]
        return slices(x.shape[0], chunk_length(x.shape[0], token_bytes, x_bytes))

    def logits(self, x: Tensor) -> Tensor:
        """(chunk, d_model) -> (chunk, v1 * v2); the columns past the vocabulary are to be cropped."""
        return self.contract_right(self.contract_left(x)[1])

    def contract_left(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(chunk, d_model) -> x as matrices (chunk, d1, d2), and Y (chunk, v1 * rank, d2)."""
        matrices = as_matrices(x, self.left.shape[1], self.d2)
        return matrices, torch.bmm(self.left.expand(x.shape[0], -1, -1), matrices)

    def contract_right(self, y: Tensor) -> Tensor:
        """Y (chunk, v1 * rank, d2) -> logits (chunk, v1 * v2)."""
        logits = y.view(-1, self.right.shape[1]) @ self.right.transpose(0, 1)  # (chunk * v1, v2)
        return logits.view(y.shape[0], -1)

    def pad_vocab(self, grad_logits: Tensor) -> Tensor:
        """(chunk, vocab_size) -> (chunk, v1 * v2), contiguous, zero past the vocabulary."""
        padded = grad_logits.new_zeros(grad_logits.shape[0], self.padded_vocab)
        padded[:, : grad_logits.shape[1]] = grad_logits
        return padded


class HeadGradients:
    """Gradients of the cores, summed over the chunks in float32 (float64 for float64)."""

    def __init__(self, head: Head, d_model: int) -> None:
        wide = accumulation_dtype(head.left.dtype)
        self.head, self.d_model = head, d_model
        self.left = torch.zeros(head.left.shape, dtype=wide, device=head.left.device)
        self.right = torch.zeros(head.right.shape, dtype=wide, device=head.right.device)

    def add(self, grad_logits: Tensor, matrices: Tensor, y: Tensor) -> Tensor:
        """Adds one chunk's share, from (chunk, v1 * v2) and what contract_left returned; y is overwritten.

        Returns: the gradient of the chunk's x, (chunk, d_model).
        """
        head, chunk = self.head, matrices.shape[0]
        grad = grad_logits.view(-1, head.right.shape[0])  # (chunk * v1, v2)
        y_rows = y.view(-1, head.right.shape[1])  # (chunk * v1, rank * d2)
        add_product_(self.right, grad.transpose(0, 1), y_rows)
        torch.mm(grad, head.right, out=y_rows)
        grad_y = y  # (chunk, v1 * rank, d2)
        grad_x = torch.bmm(head.left.transpose(0, 1).expand(chunk, -1, -1), grad_y)
        rows = grad_y.transpose(0, 1).reshape(head.left.shape[0], -1)  # (v1 * rank, chunk * d2)
        add_product_(self.left, rows, matrices.transpose(1, 2).reshape(-1, head.left.shape[1]))
        return grad_x.flatten(1)[:, : self.d_model]

    def finish(self, core1: Tensor, core2: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of core1, core2 and theta in their dtype."""
        grad_core2, grad_theta = rotate_backward(self.right.view(core2.shape), core2, theta)
        return self.left.to(core1.dtype).view(core1.shape), grad_core2, grad_theta
