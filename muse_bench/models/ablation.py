"""The way from one preset to another, one technique at a time. To add a technique, add a line to `STEPS`."""

from collections.abc import Collection
from dataclasses import dataclass

from muse_bench.errors import UsageError
from muse_bench.models.variants import changed_name, difference, find_model


@dataclass(frozen=True, slots=True)
class Step:
    """One technique, and the fields that take their values from the target together."""

    label: str
    fields: tuple[str, ...]


# In this order every model on the way is one that can be built: a hybrid embedding needs the low-rank head, and
# checkpoints can be in host memory once there are some.
STEPS = (
    Step("dtype", ("dtype",)),
    Step("mixer", ("mixer", "mixer_rank", "state_size", "query_heads", "n_heads", "decay", "gate", "gate_l1")),
    Step("positions", ("positions",)),
    Step("attention windows", ("attention_every", "attention_window")),
    Step("feed-forward", ("ffn", "ffn_rank")),
    Step("norm", ("norm", "shared_norm")),
    Step("embedding and head", ("embedding", "embedding_rank", "head", "head_rank", "head_bias")),
    Step("fused loss", ("loss",)),
    Step("checkpointing", ("checkpointing", "checkpoint_parts")),
    Step("optimizer", ("optimizer",)),
    Step("update in backward", ("update",)),
    Step("weights in host memory", ("weights",)),
    Step("checkpoints in host memory", ("offload",)),
    Step("micro-batch", ("micro_batch",)),
    Step("one CUDA graph", ("execution",)),
    Step("prompt in chunks", ("prefill_chunk",)),
    Step("more slots for weights in turn", ("inference_slots", "training_slots")),
    Step("INT8 weights that are trained", ("weight_format",)),
    Step("INT8 weights at inference", ("int8_inference",)),
)


def route(source: str, target: str) -> list[str]:
    """The names of the models from source to target, each one technique further; the last one is the target itself.

    Raises: UsageError when they are the same, or differ in a field that no step names.
    """
    wanted = difference(find_model(source), find_model(target))
    if not wanted:
        raise UsageError(f"from '{source}' to '{target}' nothing changes: choose another --from or --to")
    if unnamed := _unnamed(wanted):
        raise UsageError(
            f"from '{source}' to '{target}' no step changes {', '.join(unnamed)}: choose another --from or --to"
        )
    names = [source]
    for step in STEPS:
        changes = {field: wanted[field] for field in step.fields if field in wanted}
        if changes:
            names.append(changed_name(names[-1], changes))
    return [*names[:-1], target]


def techniques(before: str, after: str) -> list[str]:
    """What the second model does that the first does not: labels of steps, and fields that no step names."""
    changed = difference(find_model(before), find_model(after))
    return [step.label for step in STEPS if set(step.fields) & set(changed)] + _unnamed(changed)


def _unnamed(fields: Collection[str]) -> list[str]:
    named = {field for step in STEPS for field in step.fields}
    return [field for field in fields if field not in named]
