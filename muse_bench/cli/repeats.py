"""`--repeat`: each case several times, and one record of them all."""

import dataclasses
from collections.abc import Sequence

from muse_bench.analysis.repeats import merge_repeats
from muse_bench.cli.options import RepeatOptions
from muse_bench.cli.run import Finish
from muse_bench.config import Case
from muse_bench.errors import UsageError
from muse_bench.record import Record


def repeat_cases(cases: Sequence[Case], options: RepeatOptions) -> list[Case]:
    """The runs of each case in a row. Raises: UsageError when there is to be none."""
    if options.repeat < 1:
        raise UsageError(f"--repeat {options.repeat} runs nothing: give a whole number from 1")
    return [dataclasses.replace(case, repeat=index) for case in cases for index in range(options.repeat)]


def merging(finish: Finish, options: RepeatOptions) -> Finish:
    """Brings the records of one case together before `finish` sees them."""

    def merge_and_finish(records: Sequence[Record]) -> tuple[Record, ...]:
        return finish(merge_repeats(records))

    return finish if options.repeat == 1 else merge_and_finish
