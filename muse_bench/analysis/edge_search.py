"""The largest value of one size that fits a budget, found with few predictions.

Memory grows nearly in proportion, so the line through two samples says where to look next; where it does not help, the
bracket is halved. All rests on one assumption: whatever is larger than what does not fit does not fit either. It is
looked at once, one step past the edge, since reserved memory has steps of its own.
"""

from collections.abc import Callable

from muse_bench.analysis.frontier import Budget, Edge
from muse_bench.analysis.interval import device_interval
from muse_bench.record import Record


class Search:
    """Finds the edges of one model along one size; what was predicted for one budget serves the next.

    Args:
        predict: the record of a count from 1 to `largest`.
        start: the count to begin at.
        leap: how many times the largest count that passes the next one may be.
        tolerance: the share of a count within which the edge is close enough; 0 for exactly.
        least: the smallest count that there is.
        digits: those that a count may have before its zeros; None for any number.
    """

    def __init__(
        self,
        predict: Callable[[int], Record],
        *,
        start: int,
        largest: int,
        leap: int = 16,
        tolerance: float = 0.0,
        least: int = 1,
        digits: int | None = None,
    ) -> None:
        self._predict = predict
        self._digits = digits
        self._least = least if self._rounded(least) == least else self._rounded(least) + self._closeness(least)
        self._start = max(self._least, self._rounded(min(start, largest)))
        self._largest = largest
        self._leap = leap
        self._tolerance = tolerance
        self._reason: str | None = None
        self.samples: dict[int, Record] = {}

    def edge(self, budget: Budget) -> Edge:
        """The largest count that passes this budget's verdict."""
        stride, halves = 1, False
        while True:
            low, high = self._bracket(budget)
            if self._ended(low, high):
                self._look_beyond(low, high)
                return self._found(budget, low, high)
            if high is None:
                least = low + stride * self._closeness(low)
                count = self._beyond(budget, low, least)
                self._sample(count)
                stride = 2 * stride if count == least else 1
                continue
            self._sample(self._middle(low, high) if halves else self._inside(budget, low, high))
            # A guess that leaves more than half of the bracket is followed by a halving.
            left, right = self._bracket(budget)
            halves = not halves and right is not None and right - left > (high - low) // 2

    def _ended(self, low: int, high: int | None) -> bool:
        if self._reason is not None:
            return True
        return low >= self._largest if high is None else self._is_close(low, high)

    def _is_close(self, low: int, high: int) -> bool:
        return high <= self._least or high - low <= self._closeness(low)

    def _closeness(self, low: int) -> int:
        if self._digits is not None:
            return int(10 ** max(0, len(str(low)) - self._digits))
        return max(1, int(low * self._tolerance))

    def _rounded(self, count: int) -> int:
        """Down to so many digits as a count may have."""
        return count if self._digits is None else count - count % self._closeness(count)

    def _middle(self, low: int, high: int) -> int:
        return max(self._least, self._rounded((low + high) // 2))

    def _look_beyond(self, low: int, high: int | None) -> None:
        """One prediction past the first that does not pass: where sizes of another parity do, it shows."""
        if not low or high is None or self._reason is not None:
            return
        beyond = high + (1 if self._digits is None else self._closeness(high))
        if beyond <= self._largest and beyond not in self.samples:
            self._sample(beyond)

    def _sample(self, count: int) -> None:
        record = self._predict(count)
        if record.status == "ok":
            self.samples[count] = record
        else:  # larger ones would fail no less
            self._reason = record.reason or record.status

    def _bracket(self, budget: Budget) -> tuple[int, int | None]:
        """The least count that does not pass, None for none, and before it the largest that does, 0 for none."""
        passing = {count: self._passes(budget, count) for count in self.samples}
        high = min((count for count, passes in passing.items() if not passes), default=None)
        low = max((count for count, passes in passing.items() if passes and (high is None or count < high)), default=0)
        return low, high

    def _passes(self, budget: Budget, count: int) -> bool:
        return budget.judge(self.samples[count]).verdict == "PASS"

    def _beyond(self, budget: Budget, low: int, least: int) -> int:
        """Above all that passes: where the line meets the limit, but not too near and not too far."""
        if low == 0:
            return self._start
        base = max((count for count in self.samples if 4 * count <= 3 * low), default=None)  # neighbours tell little
        met = 2 * low if base is None else self._line_meets(budget, base, low) or self._leap * low
        return self._rounded(min(max(least, min(met, self._leap * low)), self._largest))

    def _inside(self, budget: Budget, low: int, high: int) -> int:
        """Inside the bracket: where the line meets the limit; the middle where it does not say."""
        above = [high] if low else sorted(count for count in self.samples if count > high)[:1]
        met = self._line_meets(budget, low or high, above[0]) if above else None
        close = self._closeness(low)
        if met is None:
            return self._middle(low, high)
        return self._rounded(max(low + close, self._least, min(met, high - close)))

    def _line_meets(self, budget: Budget, first: int, second: int) -> int | None:
        """The count at which the line through two samples is at the first limit; None where no need rises."""
        lines = zip(_needs(budget, self.samples[first]), _needs(budget, self.samples[second]), strict=True)
        return min(
            (
                first + (limit - less) * (second - first) // (more - less)
                for (less, limit), (more, _) in lines
                if more > less
            ),
            default=None,
        )

    def _found(self, budget: Budget, low: int, high: int | None) -> Edge:
        shown = low or min(self.samples, default=0)
        open_ended = high is None or not self._is_close(low, high)
        again = (count for count in sorted(self.samples) if high is not None and count > high)
        return Edge(
            budget=budget,
            count=low,
            record=budget.judge(self.samples[shown]) if shown else None,
            beyond=None if open_ended else high,
            reason=self._reason if open_ended else None,
            passes_again=tuple(count for count in again if self._passes(budget, count)),
        )


def _needs(budget: Budget, record: Record) -> list[tuple[int, int]]:
    """What the verdict holds against limits, with these: of the device, and of the host where that has one."""
    interval = device_interval(record)
    assert interval is not None  # a prediction that succeeded has one
    host = [] if budget.host_bytes is None else [(record.host_total_bytes or 0, budget.host_bytes)]
    return [(interval.upper_bytes, budget.limit_bytes), *host]
