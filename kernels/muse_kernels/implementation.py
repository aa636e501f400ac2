"""Which implementation of an operation runs: the one place where "auto" is decided."""

from typing import Literal, get_args

Implementation = Literal["auto", "reference", "eager"]
Resolved = Literal["reference", "eager"]


def resolve(implementation: Implementation) -> Resolved:
    """The implementation that a call runs; a name that is not known is an error, never a silent fall-back.

    Raises: ValueError on an unknown name.
    """
    if implementation == "auto":
        return "eager"
    if implementation not in get_args(Resolved):
        known = ", ".join(get_args(Implementation))
        raise ValueError(f"implementation: {implementation!r} is unknown; choose from {known}")
    return implementation
