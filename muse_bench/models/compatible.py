"""The models of the earlier reports under the names and arguments of their code, built from the presets.

| function | what the reports call it |
|---|---|
| create_phase1_model | the first phase: a Transformer whose embedding, and attention, are replaced |
| create_memory_optimized_model | level 1, the preset `standard` |
| create_ultra_memory_optimized_model | level 2, the preset `ultra` |
| create_extreme_memory_optimized_model | level 3, the preset `extreme` |
| create_ultimate_memory_optimized_model | level 4, the preset `ultimate` |

Each returns a LanguageModel: ids (batch, seq) int64 to logits (batch, seq, vocab_size). They are causal, so a token's
logits depend on it and the tokens before it only; the reports' models read the tokens after it too. Weights follow
`.half()`, `.cuda()` and `.to()`, and are in float32 where torch puts new tensors unless told. In float16 an optimizer
needs a larger eps, such as AdamW(..., eps=1e-4): the default of 1e-8 is 0 there, and a gradient of 0 becomes NaN.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch

from muse_bench.config import Sizes
from muse_bench.errors import UsageError
from muse_bench.layers.quantised import Int8Linear, quantise_linears
from muse_bench.models.language_model import LanguageModel
from muse_bench.models.presets import Preset, find_preset
from muse_bench.models.variants import changed_name, find_model
from muse_kernels import quantise_int8

N_HEADS = 8  # the reports' own; the levels have no attention, so none of their parts depends on it
Device = torch.device | str | int | None


class Int8Model(LanguageModel):
    """A language model for inference alone: its matrices are INT8, with a scale in float32 whatever its dtype.

    `load_state_dict` takes weights as they were trained, and rounds their matrices.
    Raises: UsageError where it is to be trained.
    """

    def quantise(self) -> Self:
        """Makes the matrices INT8, and the model one that is not trained."""
        quantise_linears(self)
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """As nn.Module has it, for eval() alone."""
        if mode:
            raise UsageError("INT8 weights cannot be trained: train with use_quantization=False, then load them here")
        return super().train(mode)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As nn.Module has it; matrices that come in floating point are rounded to INT8."""
        state = dict(state_dict)
        for name, _ in self._matrices():
            weight = state.get(f"{name}.weight")
            if weight is not None and weight.is_floating_point():
                state[f"{name}.weight"], state[f"{name}.scale"] = quantise_int8(weight)
        return super().load_state_dict(state, strict, assign)

    def _matrices(self) -> list[tuple[str, Int8Linear]]:
        return [(name, module) for name, module in self.named_modules() if isinstance(module, Int8Linear)]


def create_phase1_model(
    vocab_size: int,
    d_model: int,
    n_layers: int,
    *,
    replace_embeddings: bool = True,
    replace_attention: bool = False,
    n_heads: int = N_HEADS,
    max_seq_len: int = 2_048,
    device: Device = None,
    dtype: torch.dtype = torch.float32,
) -> LanguageModel:
    """`baseline` with the tensor-train embedding of `standard`, with its AR-SSM for attention, or both.

    Returns: ids (batch, seq), seq at most max_seq_len, to logits (batch, seq, vocab_size).
    Raises: UsageError on a size that is not positive, or heads that do not divide d_model where there is attention;
        IndexError, by the model, on a longer sequence.
    """
    fields = [*_fields("embedding", replace_embeddings), *_fields("mixer", replace_attention)]
    changes = {field: find_preset("standard").parts[field] for field in fields}
    sizes = Sizes(vocab_size=vocab_size, d_model=d_model, n_layers=n_layers, n_heads=n_heads, seq_len=max_seq_len)
    return _build(find_model(changed_name("baseline", changes)), sizes, device, dtype)


def create_memory_optimized_model(
    vocab_size: int, d_model: int, n_layers: int, device: Device = None, dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """Level 1, the preset `standard`.

    Returns: ids (batch, seq) to logits (batch, seq, vocab_size).
    Raises: UsageError on a size that is not positive.
    """
    return _build(find_preset("standard"), _sizes(vocab_size, d_model, n_layers), device, dtype)


def create_ultra_memory_optimized_model(
    vocab_size: int, d_model: int, n_layers: int, device: Device = None, dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """Level 2, the preset `ultra`.

    Returns: ids (batch, seq) to logits (batch, seq, vocab_size).
    Raises: UsageError on a size that is not positive.
    """
    return _build(find_preset("ultra"), _sizes(vocab_size, d_model, n_layers), device, dtype)


def create_extreme_memory_optimized_model(
    vocab_size: int,
    d_model: int,
    n_layers: int,
    use_quantization: bool = False,
    device: Device = None,
    dtype: torch.dtype = torch.float32,
) -> LanguageModel:
    """Level 3, the preset `extreme`; with use_quantization in eval mode, with INT8 matrices that cannot be trained.

    For trained weights in INT8, train a model without it, and hand its state_dict() to one with it.
    Returns: ids (batch, seq) to logits (batch, seq, vocab_size).
    Raises: UsageError on a size that is not positive; on train() with use_quantization.
    """
    sizes, preset = _sizes(vocab_size, d_model, n_layers), find_preset("extreme")
    if not use_quantization:
        return _build(preset, sizes, device, dtype)
    return Int8Model(preset.configure(sizes)).to(device=device, dtype=dtype).quantise()


def create_ultimate_memory_optimized_model(
    vocab_size: int, d_model: int, n_layers: int, device: Device = None, dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """Level 4, the preset `ultimate`.

    Returns: ids (batch, seq) to logits (batch, seq, vocab_size).
    Raises: UsageError on a size that is not positive.
    """
    return _build(find_preset("ultimate"), _sizes(vocab_size, d_model, n_layers), device, dtype)


def _fields(part: str, replaced: bool) -> tuple[str, ...]:
    return (part, f"{part}_rank") if replaced else ()


def _sizes(vocab_size: int, d_model: int, n_layers: int) -> Sizes:
    return Sizes(vocab_size=vocab_size, d_model=d_model, n_layers=n_layers, n_heads=N_HEADS)


def _build(preset: Preset, sizes: Sizes, device: Device, dtype: torch.dtype) -> LanguageModel:
    return LanguageModel(preset.configure(sizes)).to(device=device, dtype=dtype)
