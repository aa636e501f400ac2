"""The parts of a model whose parameters are updated together, so that an update looks at no others."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

ROOT = "(model)"  # what runs in the outermost module itself
OUTSIDE = "(outside the model)"  # what an optimizer updates besides


@dataclass(slots=True, eq=False)
class Part:
    """A child of the model, or an item of a list that is one: its parameters, with the modules that own them.

    `updated` are those that have been updated so far, the first one first.
    """

    owners: dict[Tensor, str] = field(default_factory=dict)
    updated: dict[Tensor, str] = field(default_factory=dict)


class Parts:
    """Which part of a model each parameter belongs to, and which parts the last two updates were about."""

    def __init__(self, model: nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None) -> None:
        self._of: dict[Tensor, Part] = {}
        self._before: list[Part] = []
        self._now: list[Part] = []
        named: dict[str, Part] = {}
        for name, parameter in () if model is None else model.named_parameters():
            part = self._of[parameter] = named.setdefault(".".join(name.split(".")[:2]), Part())
            part.owners[parameter] = owner(name)
        self._outside = Part()
        for other in _updated_by(optimizer):
            self._part_of(other)

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """The parameters that have a gradient are updated."""
        given = [one for one in _updated_by(optimizer) if one.grad is not None]
        for parameter in given:
            part = self._part_of(parameter)
            part.updated[parameter] = part.owners[parameter]
        self._before, self._now = self._now, list(dict.fromkeys(map(self._of.__getitem__, given)))

    def all_parameters(self) -> Iterator[tuple[Tensor, str]]:
        """Each with its owner."""
        return ((parameter, part.owners[parameter]) for parameter, part in self._of.items())

    def _part_of(self, parameter: Tensor) -> Part:
        if parameter not in self._of:
            self._of[parameter] = self._outside
            self._outside.owners[parameter] = OUTSIDE
        return self._of[parameter]

    def parameters(self) -> Iterator[tuple[Tensor, str]]:
        """Those of the parts that are updated."""
        return _items(part.owners for part in self._now)

    def updated(self) -> Iterator[tuple[Tensor, str]]:
        """Those that have been updated, of these parts and of the ones before: their state may have moved since."""
        return _items(part.updated for part in (*self._before, *self._now))


def owner(parameter_name: str) -> str:
    """The module that a parameter or buffer of this name belongs to."""
    return parameter_name.rpartition(".")[0] or ROOT


def _updated_by(optimizer: torch.optim.Optimizer | None) -> list[Tensor]:
    return [] if optimizer is None else [one for group in optimizer.param_groups for one in group["params"]]


def _items(several: Iterable[dict[Tensor, str]]) -> Iterator[tuple[Tensor, str]]:
    return itertools.chain.from_iterable(one.items() for one in several)
