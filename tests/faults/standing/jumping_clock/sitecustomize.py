"""A wall clock that is set back by a year and forward by two at every look at it."""

import itertools
import time

YEAR_SECONDS = 365 * 86_400
jumps = itertools.cycle((-YEAR_SECONDS, YEAR_SECONDS))
true_time = time.time
time.time = lambda: true_time() + next(jumps)
