"""The difference of two runs: which cases belong together, and what grew in each, by figure, category and module."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from muse_bench.analysis.accuracy import config_parts
from muse_bench.analysis.modules import pattern, span
from muse_bench.errors import UsageError
from muse_bench.ledger import LEDGER_FIELDS, Ledger
from muse_bench.record import Record, RunFile

Figure = int | float | None

# What a command asks for by itself; the rest of what makes a case is the preset's, which a change of code may alter.
ASKED = (
    *("model", "mode", "batch", "seq", "input_shape", "autocast", "logits", "new_tokens", "workspace_setting"),
    *("sharding", "ranks"),
)
SIZES = ("vocab_size", "d_model", "n_layers", "n_heads", "max_seq_len")
CHOSEN = ("dtype", "optimizer", "micro_batch", "update", "execution")

LEDGER = "ledger_"
FIGURES = {
    "peak": "peak_allocated_bytes",
    "cold": "cold_peak_allocated_bytes",
    "reserved": "peak_reserved_bytes",
    "device": "device_peak_bytes",
    "host": "host_total_bytes",
    "step": "step_time_seconds",
    "parameters": "parameters",
}
# The ledger's parts go by their own names, but for the one whose name the count has.
PARTS = {f"{LEDGER}{part}" if part in FIGURES else part: part for part in LEDGER_FIELDS}


@dataclass(frozen=True, slots=True)
class Change:
    """What a figure was and is, of a whole case or of one of its modules; None where it is not known.

    `source` is where the module's class stands, as file.py:line.
    """

    what: str
    before: Figure
    after: Figure
    module: str | None = None
    source: str | None = None

    @property
    def growth(self) -> Figure:
        """By how much it grew; below zero it shrank."""
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def share(self) -> float | None:
        """The growth as a fraction of what was; None without either."""
        return None if self.growth is None or not self.before else self.growth / self.before


@dataclass(frozen=True, slots=True)
class Pair:
    """One case before and after; `altered` names the settings that are not what they were."""

    before: Record
    after: Record
    altered: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether both ran to their end, so that there are figures to compare."""
        return self.before.status == "ok" and self.after.status == "ok"


@dataclass(frozen=True, slots=True)
class Matched:
    """The cases of two runs: those in both, those only in the first, those only in the second."""

    pairs: tuple[Pair, ...]
    gone: tuple[Record, ...]
    new: tuple[Record, ...]


def settings(record: Record) -> dict[str, Any]:
    """Everything that makes a case, by name."""
    return {name: getattr(record, name) for name in (*ASKED, *CHOSEN)} | dict(config_parts(record.config))


def match(before: Iterable[Record], after: Iterable[Record]) -> Matched:
    """The cases that are the same in everything, in the order of the first run.

    Raises: UsageError for a run that holds a case twice.
    """
    old, new = _by_case(before), _by_case(after)
    return Matched(
        pairs=tuple(Pair(record, new[case]) for case, record in old.items() if case in new),
        gone=tuple(record for case, record in old.items() if case not in new),
        new=tuple(record for case, record in new.items() if case not in old),
    )


def match_altered(matched: Matched) -> Matched:
    """The same, with cases joined too whose command is the same and whose preset is not what it was."""
    pairs, gone, new = list(matched.pairs), [], list(matched.new)
    for record in matched.gone:
        pair = successor(record, new)
        if pair is None:
            gone.append(record)
        else:
            pairs.append(pair)
            new.remove(pair.after)
    return Matched(tuple(pairs), tuple(gone), tuple(new))


def successor(record: Record, others: Iterable[Record]) -> Pair | None:
    """The record beside the one of the same command that differs from it least; None without any."""
    kin = [other for other in others if _asked(other) == _asked(record)]
    found = [Pair(record, other, altered(record, other)) for other in kin]
    return min(found, key=lambda pair: len(pair.altered), default=None)


def altered(before: Record, after: Record) -> tuple[str, ...]:
    """The settings that differ, as 'dtype: fp32 -> bf16'."""
    old, new = settings(before), settings(after)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return tuple(f"{name}: {_word(old.get(name))} -> {_word(new.get(name))}" for name in names)


def case_name(record: Record, among: Collection[Record]) -> str:
    """The model, and whatever else tells its case from the others of that model."""
    ours = settings(record)
    others = [settings(other) for other in among if other.model == record.model]
    telling = [name for name in ours if any(other.get(name) != ours[name] for other in others)]
    return ", ".join([record.model, *(f"{name} {_word(ours[name])}" for name in telling)])


def foreign(before: RunFile, after: RunFile, pairs: Iterable[Pair]) -> dict[str, tuple[str, str]]:
    """What the two runs were made with and do not share, by name: what it was and what it is."""
    found = {"gpu": _cards(before, after, pairs)}
    predicted = {record.provenance for record in (*before.records, *after.records)} == {"predicted"}
    old, new = before.environment, after.environment
    found["torch"] = _release(old.torch, predicted), _release(new.torch, predicted)
    found["allocator"] = old.allocator_config, new.allocator_config
    found["workspace"] = old.cublas_workspace_config, new.cublas_workspace_config
    found["provenance"] = _provenances(before), _provenances(after)
    return {name: (was or "none", now or "none") for name, (was, now) in found.items() if was != now}


def figure(record: Record, what: str) -> Figure:
    """A figure, or a part of the ledger, of a case that finished."""
    if record.status != "ok":
        return None
    if what in FIGURES:
        return getattr(record, FIGURES[what])  # type: ignore[no-any-return]
    return None if record.ledger is None else getattr(record.ledger, PARTS[what])


def change(pair: Pair, what: str) -> Change:
    """What became of one figure, or of one part of the ledger."""
    return Change(what, figure(pair.before, what), figure(pair.after, what))


def changes(pair: Pair, whats: Iterable[str]) -> list[Change]:
    """Those of the figures or parts that are known and not what they were, in their order."""
    return [found for found in (change(pair, what) for what in whats) if found.growth]


def places(pair: Pair) -> list[Change]:
    """What changed in which module, the largest growth first; nothing where a run has no table of modules.

    Blocks in which the same category changed are one, where they have as many parameters: others are other things.
    """
    if not pair.before.modules or not pair.after.modules:
        return []
    old, new = (_by_module(record) for record in (pair.before, pair.after))
    groups: dict[tuple[str, str, int, int], list[str]] = {}
    for module in {**old, **new}:
        sizes = _held(old, module, "parameters"), _held(new, module, "parameters")
        for what, part in PARTS.items():
            if _held(old, module, part) != _held(new, module, part):
                groups.setdefault((pattern(module), what, *sizes), []).append(module)
    sources = {row.module: row.source for record in (pair.before, pair.after) for row in record.modules}
    found = [
        Change(what, _sum(old, names, PARTS[what]), _sum(new, names, PARTS[what]), span(names), sources[names[0]])
        for (_, what, *_), names in groups.items()
    ]
    return sorted((one for one in found if one.growth), key=lambda one: one.growth or 0, reverse=True)


def _by_case(records: Iterable[Record]) -> dict[tuple[tuple[str, Any], ...], Record]:
    found: dict[tuple[tuple[str, Any], ...], Record] = {}
    for record in records:
        case = tuple(settings(record).items())
        if case in found:
            raise UsageError(
                f"'{record.model}' ({record.mode}, batch {record.batch}, {record.input_text}) is there twice: keep one"
            )
        found[case] = record
    return found


def _asked(record: Record) -> tuple[Any, ...]:
    return (*(getattr(record, name) for name in ASKED), *(record.config.get(name) for name in SIZES))


def _word(value: Any) -> str:
    return "none" if value is None else str(value)


def _cards(before: RunFile, after: RunFile, pairs: Iterable[Pair]) -> tuple[str, str]:
    """The GPUs of the first cases that were not on the same one."""
    for pair in pairs:
        cards = pair.before.gpu or before.environment.gpu, pair.after.gpu or after.environment.gpu
        if cards[0] != cards[1]:
            return cards[0] or "", cards[1] or ""
    return "", ""


def _release(version: str | None, predicted: bool) -> str:
    """The version of PyTorch; a prediction is for its release, whatever CUDA it was built for."""
    return (version or "").partition("+")[0] if predicted else version or ""


def _provenances(run: RunFile) -> str:
    return ", ".join(sorted({record.provenance for record in run.records}))


def _by_module(record: Record) -> dict[str, Ledger]:
    return {row.module: row.ledger for row in record.modules}


def _held(ledgers: Mapping[str, Ledger], module: str, part: str) -> int:
    return int(getattr(ledgers[module], part)) if module in ledgers else 0


def _sum(ledgers: Mapping[str, Ledger], modules: Sequence[str], part: str) -> int:
    return sum(_held(ledgers, module, part) for module in modules)
