"""AdamW with 8-bit state against PyTorch's AdamW."""

import torch

from muse_bench.optim.adamw_8bit import BLOCK, AdamW8bit


def fit(make, steps: int = 150) -> tuple[torch.Tensor, float]:  # type: ignore[no-untyped-def]
    """Least squares from a fixed start: the weights and the last loss."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 40, generator=generator)
    truth = torch.randn(40, 7, generator=generator)
    weight = torch.zeros(40, 7, requires_grad=True)
    optimizer = make([weight])
    for _ in range(steps):
        loss = (inputs @ weight - inputs @ truth).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return weight.detach(), float(loss.detach())


def test_it_converges_with_adamw() -> None:
    """A wrong bias correction or scale would leave it far behind, or diverge."""
    exact, exact_loss = fit(lambda p: torch.optim.AdamW(p, lr=0.05))
    ours, loss = fit(lambda p: AdamW8bit(p, lr=0.05))
    start = float((exact * 0 - exact).norm())
    assert float((ours - exact).norm()) < 0.05 * start
    assert loss < 0.05 * fit(lambda p: torch.optim.SGD(p, lr=0.0), 1)[1]
    assert exact_loss <= loss * 1.5 + 1e-3


def test_its_state_takes_two_bytes_a_parameter_and_the_scales() -> None:
    weight = torch.zeros(BLOCK * 3 + 1, requires_grad=True)
    weight.grad = torch.ones_like(weight)
    optimizer = AdamW8bit([weight])
    optimizer.step()
    state = optimizer.state[weight]
    size = sum(value.untyped_storage().nbytes() for value in state.values() if isinstance(value, torch.Tensor))
    assert size == 4 * (2 * BLOCK + 2 * 4)


def test_a_gradient_of_zeros_moves_nothing_but_decay() -> None:
    """Zero over zero in a block without any gradient must not become NaN."""
    weight = torch.ones(10, requires_grad=True)
    weight.grad = torch.zeros(10)
    AdamW8bit([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((10,), 0.95))


def test_half_precision_parameters_keep_their_dtype() -> None:
    weight = torch.ones(5, dtype=torch.bfloat16, requires_grad=True)
    weight.grad = torch.ones_like(weight)
    AdamW8bit([weight], lr=0.5).step()
    assert weight.dtype == torch.bfloat16
    assert bool((weight < 1).all())
