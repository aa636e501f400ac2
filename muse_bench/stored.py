"""Parameters whose values are stored in another form than their gradients have."""

from collections.abc import Iterable

from torch import Tensor, nn


class StoredParameter(nn.Parameter):
    """A matrix that is stored as steps of some scales: there is no other copy of it.

    What autograd and optimizers see has the matrix's shape and the model's dtype, and shows one value for all.
    """

    stored: tuple[Tensor, Tensor]  # steps and scales


class Int8Parameter(StoredParameter):
    """Steps (out_features, in_features) int8 of a scale a row (out_features,), trained so."""


class Int4Parameter(StoredParameter):
    """4-bit steps of a scale a group, as `int4_unpack` takes them; it takes no gradient, and is never trained."""


def held(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor that lies on several; of any other all."""
    local: Tensor = getattr(tensor, "_local_tensor", tensor)
    return local


def stored(parameter: Tensor) -> tuple[Tensor, ...]:
    """The tensors that hold a parameter's values: as a rule, itself."""
    return parameter.stored if isinstance(parameter, StoredParameter) else (parameter,)


def stored_together(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The tensors that hold the values of all these."""
    return [tensor for parameter in parameters for tensor in stored(parameter)]
