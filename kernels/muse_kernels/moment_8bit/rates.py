"""The constants of a step."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rates:
    """Decay rates of the moments, what multiplies the learning rate, the weight decay, and a parameter's salt."""

    momentum: float = 0.95
    beta2: float = 0.99
    scale: float = 1.0
    decay: float = 0.0
    salt: int = 0
    epsilon: float = 1e-8
