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
    """

    def __init__(
        self, predict: Callable[[int], Record], *, start: int, largest: int, leap: int = 16, tolerance: float = 0.0
    ) -> None:
        self._predict = predict
        self._start = max(1, min(start, largest))
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
            self._sample((low + high) // 2 if halves else self._inside(budget, low, high))
            # A guess that leaves more than half of the bracket is followed by a halving.
            left, right = self._bracket(budget)
            halves = not halves and right is not None and right - left > (high - low) // 2

    def _ended(self, low: int, high: int | None) -> bool:
        if self._reason is not None:
            return True
        return low >= self._largest if high is None else self._is_close(low, high)

    def _is_close(self, low: int, high: int) -> bool:
        return high - low <= self._closeness(low)

    def _closeness(self, low: int) -> int:
        return max(1, int(low * self._tolerance))

    def _look_beyond(self, low: int, high: int | None) -> None:
        """One prediction past the first that does not pass: where sizes of another parity do, it shows."""
        if low and high is not None and high < self._largest and high + 1 not in self.samples and self._reason is None:
            self._sample(high + 1)

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
        return min(max(least, min(met, self._leap * low)), self._largest)

    def _inside(self, budget: Budget, low: int, high: int) -> int:
        """Inside the bracket: where the line meets the limit; the middle where it does not say."""
        above = [high] if low else sorted(count for count in self.samples if count > high)[:1]
        met = self._line_meets(budget, low or high, above[0]) if above else None
        close = self._closeness(low)
        return (low + high) // 2 if met is None else max(low + close, min(met, high - close))

    def _line_meets(self, budget: Budget, first: int, second: int) -> int | None:
        """The count at which the line through two samples is at the limit; None where it does not rise."""
        less, more = self._need(first), self._need(second)
        return None if more <= less else first + (budget.limit_bytes - less) * (second - first) // (more - less)

    def _need(self, count: int) -> int:
        """What the verdict holds against the limit."""
        interval = device_interval(self.samples[count])
        assert interval is not None  # a prediction that succeeded has one
        return interval.upper_bytes

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
