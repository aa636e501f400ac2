"""The link between host and device: how fast it was seen to be, and how long copies must take at the least."""

from dataclasses import dataclass

GB = 10**9


@dataclass(frozen=True, slots=True)
class LinkRates:
    """Bytes a second in one direction alone, and in each of the two when both copy at once."""

    to_device: float
    to_host: float
    both: float

    def seconds(self, to_device_bytes: int, to_host_bytes: int) -> float:
        """The least time in which so much crosses: as much as can at once, the rest alone."""
        together = min(to_device_bytes, to_host_bytes)
        alone = (to_device_bytes - together) / self.to_device + (to_host_bytes - together) / self.to_host
        return together / self.both + alone

    @property
    def source(self) -> str:
        """In words, for a record."""
        return (
            f"measured in the same process: {self.to_device / GB:.1f} GB/s to the device, "
            f"{self.to_host / GB:.1f} back, {self.both / GB:.1f} each way at once"
        )
