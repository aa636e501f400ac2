"""Which kernel CUDA chooses for scaled_dot_product_attention, and what it makes of the inputs first.

That decides what backward saves. Source: sdp_utils.cpp and attention.cpp of PyTorch 2.11, and the operations seen on an
H200 (reports/h200).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten

HALF_DTYPES = (torch.float16, torch.bfloat16)
FLASH_CAPABILITY = (8, 0)
FLASH_LARGEST_HEAD = 256
# PyTorch prefers cuDNN's attention for half precision on these, with cuDNN 9.15 or newer: its largest head size there.
CUDNN_LARGEST_HEAD = {(9, 0): 256, (10, 0): 128, (10, 3): 128}
# Flash attention cannot train these head sizes on consumer cards: more than 192, up to 224, or more with dropout.
UNTRAINABLE_HEADS = range(193, 225)
UNTRAINABLE_CAPABILITIES = (((8, 6), (8, 9)), ((12, 0), (12, 1)))
MASK_ALIGNMENT = 8  # elements, of a mask's strides in the memory-efficient kernel
HEAD_ALIGNMENT = 8  # elements, to which flash pads a head


@dataclass(frozen=True)
class Call:
    """The arguments that the choice looks at."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    dropout: float
    causal: bool
    grouped: bool
    capability: tuple[int, int]

    @property
    def needs_grad(self) -> bool:
        """Whether backward will run: the kernels then keep their logsumexp."""
        return torch.is_grad_enabled() and any(t.requires_grad for t in (self.query, self.key, self.value))

    def runs_on_cudnn(self) -> bool:
        largest = CUDNN_LARGEST_HEAD.get(self.capability, 0)
        heads = (self.query.shape[-1], self.value.shape[-1])
        return (
            self._fits_half()
            # A learned mask needs its gradient, which cuDNN does not give.
            and not (self.mask is not None and self.mask.requires_grad)
            and self._heads_match(groups=self.grouped)
            and max(heads) <= largest
            and all(head % 8 == 0 for head in heads)
            # Latent attention, whose values are narrower, was seen on the other kernels.
            and heads[0] == heads[1]
            and self.key.shape[-2] > 1
            and not (self.query.shape[-2] == 1 and self.dropout > 0)
        )

    def runs_on_flash(self) -> bool:
        head = self.query.shape[-1]
        return (
            self._fits_half()
            and self.mask is None
            and self.capability >= FLASH_CAPABILITY
            and head == self.key.shape[-1] == self.value.shape[-1]
            and head <= FLASH_LARGEST_HEAD
            and self._heads_match(groups=self.grouped)
            and not (self.causal and self.query.shape[-2] != self.key.shape[-2])
            and not self._flash_cannot_train(head)
        )

    def runs_on_efficient(self) -> bool:
        allowed = (*HALF_DTYPES, torch.float32) if self.capability >= (8, 0) else (torch.float16, torch.float32)
        alignment = 8 if self.query.dtype in HALF_DTYPES else 4 if self.capability >= (8, 0) else 1
        return (
            self._four_dimensions()
            and self.query.dtype in allowed
            and self.query.shape[-1] == self.key.shape[-1]
            and all(tensor.shape[-1] % alignment == 0 for tensor in (self.query, self.value))
            and all(tensor.stride(-1) == 1 for tensor in (self.query, self.key, self.value))
            and self._heads_match(groups=False)
        )

    def _fits_half(self) -> bool:
        return self._four_dimensions() and self.query.dtype in HALF_DTYPES

    def _four_dimensions(self) -> bool:
        return all(tensor.dim() == 4 and tensor.shape[-2] > 0 for tensor in (self.query, self.key, self.value))

    def _heads_match(self, *, groups: bool) -> bool:
        """The kernels broadcast neither batch nor heads: multi-query attention must ask for groups, or expand."""
        batches = {tensor.shape[0] for tensor in (self.query, self.key, self.value)}
        heads, key_heads, value_heads = (tensor.shape[1] for tensor in (self.query, self.key, self.value))
        if groups:
            return len(batches) == 1 and heads % key_heads == 0 and heads % value_heads == 0
        return len(batches) == 1 and heads == key_heads == value_heads

    def _flash_cannot_train(self, head: int) -> bool:
        consumer = any(low <= self.capability <= high for low, high in UNTRAINABLE_CAPABILITIES)
        refused = head in UNTRAINABLE_HEADS or (head >= UNTRAINABLE_HEADS.stop and self.dropout > 0)
        return self.needs_grad and consumer and refused


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    capability: tuple[int, int],
) -> Tensor:
    """scaled_dot_product_attention by the kernel that CUDA would choose."""
    call = Call(query, key, value, attn_mask, dropout_p, is_causal, enable_gqa, capability)
    if call.runs_on_cudnn():
        out = aten._scaled_dot_product_cudnn_attention(
            query, key, value, _additive(attn_mask, query), call.needs_grad, dropout_p, is_causal, False, scale=scale
        )
        return out[0]  # type: ignore[no-any-return]
    if call.runs_on_flash():
        return _flash(call, scale)
    mask = _additive(attn_mask, query)
    if call.runs_on_efficient():
        mask = None if mask is None else _aligned(mask).expand(*query.shape[:3], key.shape[-2])
        out = aten._scaled_dot_product_efficient_attention(
            query, key, value, mask, call.needs_grad, dropout_p, is_causal, scale=scale
        )
        return out[0]  # type: ignore[no-any-return]
    out = aten._scaled_dot_product_attention_math(
        query, key, value, mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )
    return out[0]  # type: ignore[no-any-return]


def _flash(call: Call, scale: float | None) -> Tensor:
    """Flash takes heads of a multiple of 8; others are padded, and the output is cropped."""
    head = call.query.shape[-1]
    excess = -head % HEAD_ALIGNMENT
    padded = [functional.pad(t, (0, excess)) if excess else t for t in (call.query, call.key, call.value)]
    out: Tensor = aten._scaled_dot_product_flash_attention(
        *padded, call.dropout, call.causal, False, scale=head**-0.5 if scale is None else scale
    )[0]
    return out[..., :head] if excess else out


def _additive(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """A bool mask becomes one of the query's dtype, to be added to the scores."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    hidden = torch.scalar_tensor(-torch.inf, dtype=query.dtype, device=mask.device)
    return torch.where(mask, 0.0, hidden)


def _aligned(mask: Tensor) -> Tensor:
    """The memory-efficient kernel wants aligned rows: others are padded, and a view of the padded mask is used."""
    if mask.stride(-1) == 1 and all(stride % MASK_ALIGNMENT == 0 for stride in mask.stride()[:-1]):
        return mask
    width = mask.shape[-1]
    return functional.pad(mask, (0, MASK_ALIGNMENT - width % MASK_ALIGNMENT))[..., :width]
