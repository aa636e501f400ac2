"""What claims are settled from besides a run: saved measurements and trainings, and trainings that are run for them."""

import json
from collections.abc import Sequence
from pathlib import Path

from muse_bench.cli.outputs import Outputs
from muse_bench.cli.quality import quality_formats, train
from muse_bench.cli.training import ReferenceSizes, TextOptions, TrainingOptions, build_plan
from muse_bench.errors import UsageError
from muse_bench.quality.record import QualityRun, read_quality_file
from muse_bench.record import RunFile, read_run_file
from muse_bench.units import parse_count

RECORDS = Path("reports")
TRAINED = Path("claims-quality.json")
RATES, SEEDS = "5e-4,1e-3,2e-3,4e-3", "0"
MOST_VALIDATION = 1_000_000  # tokens


def read_saved(paths: Sequence[Path] | None) -> tuple[tuple[RunFile, ...], tuple[QualityRun, ...]]:
    """What was measured, and what was trained, in these files and folders; by default in `reports`, if it is there.

    In a folder, files of predictions are passed over, and those that hold both: they calibrate.
    Raises: UsageError for a path that is not there, and a file, named by itself, that holds neither.
    """
    measured, trained = [], []
    given = list(paths) if paths else [RECORDS] if RECORDS.is_dir() else []
    for path in given:
        if not path.exists():
            raise UsageError(f"--records {path} is not there: name a .json file that --output wrote, or a folder")
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            kind = _kind(file)
            if kind == "runs":
                trained.append(read_quality_file(file))
            elif kind == "records" or file == path:
                run = read_run_file(file)
                if {record.provenance for record in run.records} == {"measured"}:
                    measured.append(run)
                elif file == path:
                    raise UsageError(f"--records {path} holds predictions: name what was measured or trained")
    return tuple(measured), tuple(trained)


def train_missing(models: Sequence[str], tokens: str) -> tuple[QualityRun, ...]:
    """Trainings of these models on so many tokens, the first their baseline, saved as they end; none without models."""
    if not models:
        return ()
    text = TextOptions(validation_tokens=str(min(parse_count(tokens), MOST_VALIDATION)))
    training = TrainingOptions(tokens=tokens, lrs=RATES, seeds=SEEDS, tf32=True, graphs=True)
    plan = build_plan(ReferenceSizes(), text, training, ",".join(models))
    outputs = Outputs([TRAINED], quality_formats(models[0]))
    return (train(plan, text, outputs, [TRAINED], models[0], training),)


def _kind(path: Path) -> str | None:
    """What a file of records holds: the name of its list; None for any other file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(values, dict) or "schema_version" not in values:
        return None
    return next(
        (name for name in ("records", "runs") if name in values and (name == "records" or "corpus" in values)), None
    )
