"""The column of losses beside memory, and the lines that say where they are from."""

from collections.abc import Iterable, Sequence

from muse_bench.analysis.losses import Losses, find_losses
from muse_bench.quality.record import QualityRun
from muse_bench.record import Record
from muse_bench.report.quality import protocol_text, spread_text
from muse_bench.report.words import plain


class LossColumn:
    """The losses of the records' models; without quality runs there is no column."""

    def __init__(self, runs: Sequence[QualityRun], records: Sequence[Record]) -> None:
        self._asked = bool(runs)
        self._losses: Losses | None = find_losses(runs, records)

    @property
    def heading(self) -> tuple[str, ...]:
        """One heading, or none."""
        return ("loss",) if self._asked else ()

    def cell(self, record: Record) -> tuple[str, ...]:
        """The record's cell below the heading."""
        if not self._asked:
            return ()
        return ("-" if self._losses is None else spread_text(self._losses.of(record), 4),)

    def notes(self, rows: Iterable[tuple[str, Record]]) -> list[str]:
        """What the losses mean, and the labels of the rows that have none."""
        if not self._asked:
            return []
        if self._losses is None:
            return ["loss: the quality files hold none of these models, in the dtypes that they have here."]
        lines = [
            "loss: nats a token on text that was not trained on, mean and standard deviation over the seeds. "
            f"{protocol_text(self._losses.first)}."
        ]
        rows = list(rows)
        if missing := [label for label, record in rows if self._losses.of(record) is None]:
            lines.append(plain(f"not trained to the end there: {', '.join(missing)}."))
        return [*lines, *self._rates(self._losses, rows)]

    def _rates(self, losses: Losses, rows: Sequence[tuple[str, Record]]) -> list[str]:
        """The learning rates that were tried, and a warning where they are not those of all."""
        tried = losses.tried(record for _, record in rows)
        texts = {rates: ", ".join(f"{rate:g}" for rate in rates) for rates in tried}
        if len(tried) < 2:
            return [f"learning rates that were tried of each: {text}." for text in texts.values()]
        labels = {rates: [label for label, record in rows if record in records] for rates, records in tried.items()}
        each = "; ".join(f"{texts[rates]}: {', '.join(labels[rates])}" for rates in tried)
        return [plain(f"not of equal effort, for the learning rates that were tried differ: {each}.")]
