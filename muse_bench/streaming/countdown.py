"""How far something long has come, and how long the rest takes."""

import time
from collections.abc import Callable

from muse_bench.units import format_bytes

EVERY_SECONDS = 0.5


class Countdown:
    """Says '<what>: 12.0 GiB of 93.5 GiB, 40 s left', a few times a second at the most, and at the end."""

    def __init__(self, what: str, say: Callable[[str], None]) -> None:
        self._what, self._say = what, say
        self._begun = time.monotonic()
        self._said: float | None = None

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        now = time.monotonic()
        if done_bytes < total_bytes and self._said is not None and now - self._said < EVERY_SECONDS:
            return
        self._said = now
        left = (now - self._begun) * (total_bytes - done_bytes) / max(done_bytes, 1)
        self._say(f"{self._what}: {format_bytes(done_bytes)} of {format_bytes(total_bytes)}, {left:.0f} s left")
