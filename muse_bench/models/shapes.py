"""Width and depth of a preset for a number of parameters: the published shapes, and between them their proportions."""

import bisect
import dataclasses
import math
from dataclasses import dataclass

from muse_bench.config import Sizes
from muse_bench.errors import UsageError
from muse_bench.models.parameters import count_parameters
from muse_bench.models.presets import Preset

STEP = 128  # widths are its multiples, and a head is so wide
MOST_STEPS = 1 << 13  # shapes of 10^15 parameters lie below both
MOST_LAYERS = 1 << 13


@dataclass(frozen=True, slots=True)
class Published:
    """A model's shape, and the number of parameters that it is called by, which is rounded to a `unit`."""

    parameters: int
    unit: int
    d_model: int
    n_layers: int


# Brown et al. 2020, arXiv:2005.14165, table 2.1; Touvron et al. 2023, arXiv:2307.09288 (7B, 13B and 70B).
PUBLISHED = (
    Published(125 * 10**6, 10**6, 768, 12),
    Published(350 * 10**6, 10**6, 1_024, 24),
    Published(1_300 * 10**6, 10**8, 2_048, 24),
    Published(7 * 10**9, 10**9, 4_096, 32),
    Published(13 * 10**9, 10**9, 5_120, 40),
    Published(70 * 10**9, 10**9, 8_192, 80),
    Published(175 * 10**9, 10**9, 12_288, 96),
)


def choose_shape(preset: Preset, parameters: int, sizes: Sizes) -> Sizes:
    """The sizes with a width, depth and number of heads at which the preset has this many parameters.

    A published shape of that name is taken where the preset's own count rounds to the name too. Otherwise: the width,
    a multiple of 128, whose proportion to the depth is nearest to that of the nearest published shape; a block less
    would have fewer parameters than were asked for.
    Raises: UsageError for fewer than any such shape has.
    """
    nearest = min(PUBLISHED, key=lambda known: abs(math.log(known.parameters / parameters)))
    as_published = _shaped(sizes, nearest.d_model, nearest.n_layers)
    if parameters == nearest.parameters and 2 * abs(_count(preset, as_published) - parameters) <= nearest.unit:
        return as_published
    _check_least(preset, parameters, sizes)
    proportion = nearest.d_model / nearest.n_layers

    def too_wide(steps: int) -> bool:
        shape = _deep_enough(preset, parameters, sizes, steps)
        return shape.d_model >= proportion * shape.n_layers

    narrow = bisect.bisect_left(range(1, MOST_STEPS), True, key=too_wide)  # the widest that is not; 0 for none
    found = [_deep_enough(preset, parameters, sizes, steps) for steps in (narrow, narrow + 1) if steps]
    return min(found, key=lambda one: abs(math.log(one.d_model / one.n_layers / proportion)))


def _deep_enough(preset: Preset, parameters: int, sizes: Sizes, steps: int) -> Sizes:
    """Of this width, as few layers as have the parameters."""
    layers = 1 + bisect.bisect_left(
        range(1, MOST_LAYERS), parameters, key=lambda layers: _count(preset, _shaped(sizes, steps * STEP, layers))
    )
    return _shaped(sizes, steps * STEP, layers)


def _check_least(preset: Preset, parameters: int, sizes: Sizes) -> None:
    least = least_parameters(preset, sizes)
    if parameters < least:
        raise UsageError(
            f"--params {parameters:,} is fewer than the {least:,} of the smallest shape, {STEP} wide with one layer "
            f"and {sizes.vocab_size:,} words: ask for more, or for fewer words by --vocab"
        )


def least_parameters(preset: Preset, sizes: Sizes) -> int:
    """Those of the smallest shape that `choose_shape` knows."""
    return _count(preset, _shaped(sizes, STEP, 1))


def _count(preset: Preset, sizes: Sizes) -> int:
    return count_parameters(preset.configure(sizes))


def _shaped(sizes: Sizes, d_model: int, n_layers: int) -> Sizes:
    return dataclasses.replace(sizes, d_model=d_model, n_layers=n_layers, n_heads=max(1, d_model // STEP))
