"""Autocast on `meta` does what PyTorch's autocast does on a device: compared with the CPU's, dtype for dtype."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from muse_bench.autocast import forward_autocast, meta_autocast

META = torch.device("meta")


def test_products_run_in_the_lower_precision_and_norms_in_float32() -> None:
    with torch.device("meta"):
        linear, norm, x = nn.Linear(4, 4), nn.LayerNorm(4), torch.empty(2, 4)
    with meta_autocast(torch.bfloat16), forward_autocast(META, torch.bfloat16):
        hidden = linear(x)
        assert hidden.dtype == torch.bfloat16
        assert norm(hidden).dtype == torch.float32
        assert (hidden @ hidden.T).dtype == torch.bfloat16
        assert hidden.softmax(-1).dtype == torch.float32
        assert functional.cross_entropy(hidden, torch.zeros(2, dtype=torch.int64, device="meta")).dtype == torch.float32
    assert linear(x).dtype == torch.float32


def test_gradients_of_weights_come_back_in_float32() -> None:
    with torch.device("meta"):
        linear = nn.Linear(4, 4)
    with meta_autocast(torch.bfloat16):
        with forward_autocast(META, torch.bfloat16):
            loss = linear(torch.empty(2, 4, device="meta")).float().sum()
        loss.backward()
    assert linear.weight.grad is not None
    assert linear.weight.grad.dtype == torch.float32


def test_a_weight_used_twice_is_cast_once_in_a_forward() -> None:
    weight = nn.Parameter(torch.empty(3, 4, device="meta"))
    x = torch.empty(2, 4, device="meta")
    with meta_autocast(torch.bfloat16), forward_autocast(META, torch.bfloat16):
        first, second = functional.linear(x, weight), functional.linear(x, weight)
    casts = [out.grad_fn.next_functions[-1][0].next_functions[0][0] for out in (first, second)]  # type: ignore[union-attr]
    assert casts[0]._sequence_nr() == casts[1]._sequence_nr()


@pytest.mark.parametrize("reentrant", [False, True])
def test_what_checkpointing_recomputes_is_autocast_as_its_forward_was(reentrant: bool) -> None:
    """Recomputation in another dtype is an error of checkpointing, and memory of another size."""
    from muse_bench import scopes

    class Scoped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4, device="meta")
            self.dtypes: list[torch.dtype] = []

        def forward(self, x: Tensor) -> Tensor:
            with scopes.scope("block"):
                out = self.linear(x)
            self.dtypes.append(out.dtype)
            return out

    module = Scoped()
    x = torch.empty(2, 4, device="meta", requires_grad=True)
    with meta_autocast(torch.bfloat16):
        with forward_autocast(META, torch.bfloat16):
            loss = checkpoint(module, x, use_reentrant=reentrant, preserve_rng_state=False).float().sum()
        loss.backward()
    assert set(module.dtypes) == {torch.bfloat16}  # the other kind also checks the dtypes that it recomputes
    assert len(module.dtypes) == 1 + reentrant


def test_without_a_dtype_nothing_is_cast() -> None:
    with meta_autocast(None), forward_autocast(META, None):
        assert (
            functional.linear(torch.empty(2, 4, device="meta"), torch.empty(3, 4, device="meta")).dtype == torch.float32
        )
