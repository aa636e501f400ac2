"""Parameters whose values are stored in another form than their gradients have."""

from collections.abc import Iterable

from torch import Tensor, nn


class Int8Parameter(nn.Parameter):
    """A matrix that is stored as int8 steps of a scale a row, and trained so: there is no other copy of it.

    What autograd and optimizers see has the matrix's shape and the dtype of its gradient, and shows one value for all.
    """

    stored: tuple[Tensor, Tensor]  # steps (out_features, in_features) int8, and scale (out_features,)


def stored(parameter: Tensor) -> tuple[Tensor, ...]:
    """The tensors that hold a parameter's values: as a rule, itself."""
    return parameter.stored if isinstance(parameter, Int8Parameter) else (parameter,)


def stored_together(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The tensors that hold the values of all these."""
    return [tensor for parameter in parameters for tensor in stored(parameter)]
