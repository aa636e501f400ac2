"""Ranks of a model's parts: the variants of a base that differ from it in the rank of one part or of all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from muse_bench.config import WITHOUT_RANK, ModelConfig
from muse_bench.errors import UsageError
from muse_bench.models.variants import changed_name
from muse_bench.record import Record

PARTS = {
    "embedding": ("embedding_rank",),
    "mixer": ("mixer_rank",),
    "ffn": ("ffn_rank",),
    "all": ("embedding_rank", "mixer_rank", "ffn_rank"),
}


@dataclass(frozen=True, slots=True)
class Rank:
    """One record: which part was given which rank; without either it is a model as it is."""

    record: Record
    part: str | None = None
    rank: int | None = None


def ranked_names(base: str, parts: Iterable[str], values: Sequence[int]) -> list[str]:
    """The names of the base with each rank of each part, in this order."""
    return [changed_name(base, dict.fromkeys(PARTS[part], value)) for part in parts for value in values]


def check_ranks(base: str, config: ModelConfig, parts: Iterable[str]) -> None:
    """Raises: UsageError for a part that has no rank in the base, where changing it would change nothing."""
    for part in parts:
        for field in PARTS[part]:
            kind = field.removesuffix("_rank")
            chosen = getattr(config, kind)
            if chosen in WITHOUT_RANK[kind]:
                raise UsageError(f"--part {part}: the {kind} of '{base}' is '{chosen}', without a rank: leave it out")


def ranks(records: Sequence[Record]) -> list[Rank]:
    """What each record of a run of ranks is: the baseline, the base, and variants written behind the base's name.

    Raises: UsageError when a record is of another kind of run.
    """
    as_they_are, variants = records[:2], records[2:]
    return [*map(Rank, as_they_are), *(_rank(record, records[1].model) for record in variants)]


def _rank(record: Record, base: str) -> Rank:
    name, _, behind = record.model.rpartition(f"{base}+")
    changes = dict(change.partition("=")[::2] for change in behind.split("+"))
    part = next((part for part, fields in PARTS.items() if set(fields) == set(changes)), None)
    values = set(changes.values())
    if name or part is None or len(values) > 1 or not (value := values.pop()).isdecimal():
        raise UsageError(f"'{record.model}' is not '{base}' with another rank: these are no records of ranks")
    return Rank(record, part, int(value))
