"""How much the device may really use where a prediction names one figure: bounds on either side, and their sources.

The allocator's part errs by a share of itself, the context by bytes. Both are looser where less is known.
"""

from dataclasses import dataclass

from muse_bench.record import Record
from muse_bench.units import MIB

# The bounds that calibration holds predicted reserved memory to, as shares of the prediction: what is measured may be
# this much more, or less. The worst of reports/h200/calibration.md are 5.3 % more and 5.1 % less; a test holds every
# case of it to these.
RESERVED_ABOVE = 0.08
RESERVED_BELOW = 0.08

# On a measured GPU contexts of different models stay this close to the table's; kernels load as a model needs them.
MEASURED_CONTEXT_SPREAD_BYTES = 16 * MIB

# An estimated context takes one GPU's kernels, and bytes a thread, for another's. Its kernels may be larger or loaded
# all at once (CUDA_MODULE_LOADING=EAGER), and drivers differ: hundreds of MiB more. It can be too high only by the
# kernels that a model does not load, and by what a driver keeps smaller for each thread.
ESTIMATED_CONTEXT_ABOVE_BYTES = 256 * MIB
ESTIMATED_CONTEXT_BELOW_BYTES = 128 * MIB


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds of the device's use in bytes, and in words where they come from."""

    lower_bytes: int
    upper_bytes: int
    source: str


def device_interval(record: Record) -> Interval | None:
    """The bounds of a predicted record's device peak; None for a measured one, and where nothing was predicted."""
    if record.provenance != "predicted" or record.device_peak_bytes is None or record.peak_reserved_bytes is None:
        return None
    reserved, context = record.peak_reserved_bytes, record.device_peak_bytes - record.peak_reserved_bytes
    below, above, known = _context_spread(record)
    return Interval(
        lower_bytes=int(reserved * (1 - RESERVED_BELOW)) + max(context - below, 0),
        upper_bytes=int(reserved * (1 + RESERVED_ABOVE)) + context + above,
        source=(
            f"reserved -{RESERVED_BELOW * 100:g} % to +{RESERVED_ABOVE * 100:g} %, as calibrated; "
            f"context -{below // MIB} to +{above // MIB} MiB, {known}"
        ),
    )


def _context_spread(record: Record) -> tuple[int, int, str]:
    """How much less and more the context may be; a record that does not say where it has it from has an estimate."""
    if (record.context_source or "").startswith("measured"):
        return MEASURED_CONTEXT_SPREAD_BYTES, MEASURED_CONTEXT_SPREAD_BYTES, "measured on this GPU"
    return ESTIMATED_CONTEXT_BELOW_BYTES, ESTIMATED_CONTEXT_ABOVE_BYTES, "estimated for this GPU"
