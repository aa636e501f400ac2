"""The calibration matrix as rows of data: half of it was used to write the rules of prediction, half was held out.

The held-out rows were chosen and committed before any of them was measured. A row for which a rule is changed moves to
development, and new rows are frozen in its place.
"""

from dataclasses import dataclass
from typing import Literal

from muse_bench.calibration import zoo
from muse_bench.config import Case, Dtype, Mode, Optimizer, Sizes
from muse_bench.models.presets import find_preset

Part = Literal["development", "held-out"]


@dataclass(frozen=True, slots=True)
class PresetRow:
    """A preset at (vocabulary, width, layers, heads)."""

    preset: str
    mode: Mode
    sizes: tuple[int, int, int, int]
    batch: int
    seq: int
    dtype: Dtype | None = None
    optimizer: Optimizer | None = None


@dataclass(frozen=True, slots=True)
class ZooRow:
    """A model of `zoo.ARCHITECTURES`."""

    model: str
    mode: Mode
    dtype: Dtype
    batch: int
    seq: int
    optimizer: Optimizer = "adamw"
    autocast: Dtype | None = None


REFERENCE, LARGE = (10_000, 512, 6, 8), (50_000, 1_024, 12, 16)
LEVELS = ("standard", "ultra", "extreme", "ultimate")
WIDE, TINY, TALL, SMALL = (128_000, 1_280, 4, 20), (5_000, 256, 4, 4), (32_000, 768, 8, 12), (50_257, 768, 12, 12)

DEVELOPMENT: tuple[PresetRow | ZooRow, ...] = (
    *(PresetRow(p, "train", REFERENCE, 2, 512) for p in ("encoder", "baseline", "tuned", *LEVELS)),
    *(PresetRow(p, "forward-backward", REFERENCE, 2, 512) for p in ("encoder", "baseline", "tuned", *LEVELS)),
    *(PresetRow(p, "inference", REFERENCE, 1, 512) for p in ("encoder", "baseline", "tuned", *LEVELS)),
    *(PresetRow(p, "train", LARGE, 1, 2_048) for p in ("encoder", "baseline", "tuned", *LEVELS)),
    *(PresetRow(p, "inference", LARGE, 1, 2_048) for p in ("encoder", "baseline", "tuned", *LEVELS)),
    PresetRow("baseline", "decode", REFERENCE, 1, 512),
    PresetRow("ultra", "decode", REFERENCE, 1, 512),
    ZooRow("gpt2", "train", "fp32", 2, 512),
    ZooRow("gpt2", "train", "bf16", 2, 512),
    ZooRow("gpt2", "train", "fp32", 2, 512, autocast="bf16"),
    ZooRow("gpt2-checkpointed", "train", "fp32", 2, 512),
    ZooRow("gpt2-eager", "train", "fp32", 2, 512),
    ZooRow("gpt2-small", "train", "bf16", 4, 1_024),
    ZooRow("gpt2", "inference", "bf16", 4, 256),
    ZooRow("llama", "train", "fp32", 2, 512),
    ZooRow("llama", "train", "bf16", 1, 1_000, optimizer="adamw-fused"),
    ZooRow("llama-reentrant", "train", "bf16", 2, 512),
    ZooRow("llama", "train", "fp32", 2, 512, autocast="bf16"),
    ZooRow("llama", "inference", "fp16", 3, 200),
    ZooRow("qwen2", "train", "bf16", 2, 512, optimizer="adafactor"),
    ZooRow("mistral", "train", "fp32", 2, 512, optimizer="sgd"),
    ZooRow("gemma", "train", "bf16", 2, 512),
    ZooRow("phi", "train", "fp32", 2, 512),
    ZooRow("gpt-neox", "train", "bf16", 2, 512),
    ZooRow("opt", "train", "fp32", 2, 512),
    ZooRow("bloom", "train", "fp32", 2, 512),
    ZooRow("bert", "train", "fp32", 2, 512),
    ZooRow("bert", "train", "fp16", 3, 200, optimizer="sgd"),
    ZooRow("bert", "train", "fp32", 2, 512, autocast="bf16"),
    ZooRow("roberta", "train", "bf16", 2, 512),
    ZooRow("distilbert", "train", "fp32", 2, 512),
    # Held out until measured: attention to one key head for all runs on plain products.
    ZooRow("falcon", "train", "bf16", 2, 512),
    ZooRow("falcon", "inference", "bf16", 2, 1_024),
)

HELD_OUT: tuple[PresetRow | ZooRow, ...] = (
    PresetRow("encoder", "train", TALL, 2, 700),
    PresetRow("baseline", "train", TALL, 2, 1_024),
    PresetRow("tuned", "train", TALL, 3, 1_024),
    PresetRow("standard", "train", TALL, 2, 1_024),
    PresetRow("ultra", "train", TALL, 4, 512),
    PresetRow("extreme", "train", TALL, 2, 777),
    PresetRow("ultimate", "train", TALL, 3, 512),
    PresetRow("baseline", "train", WIDE, 1, 512),
    PresetRow("tuned", "train", WIDE, 1, 512),
    PresetRow("ultra", "train", WIDE, 1, 512),
    PresetRow("baseline", "train", TINY, 4, 2_048),
    PresetRow("tuned", "train", TINY, 4, 2_048),
    PresetRow("standard", "train", TINY, 4, 2_048),
    PresetRow("ultimate", "train", TINY, 4, 1_024),
    PresetRow("baseline", "train", SMALL, 4, 1_024),
    PresetRow("tuned", "train", SMALL, 4, 1_024),
    PresetRow("baseline", "train", REFERENCE, 3, 300, dtype="bf16"),
    PresetRow("baseline", "train", REFERENCE, 2, 512, dtype="fp16", optimizer="adamw-fused"),
    PresetRow("tuned", "train", REFERENCE, 2, 512, dtype="fp32"),
    PresetRow("ultra", "train", REFERENCE, 2, 512, dtype="fp32", optimizer="sgd"),
    PresetRow("baseline", "forward-backward", TALL, 2, 1_024),
    PresetRow("ultra", "forward-backward", WIDE, 2, 256),
    PresetRow("extreme", "forward-backward", TINY, 4, 2_048),
    PresetRow("encoder", "inference", TALL, 2, 1_024),
    PresetRow("baseline", "inference", SMALL, 4, 1_024),
    PresetRow("tuned", "inference", WIDE, 1, 2_048),
    PresetRow("extreme", "inference", TALL, 2, 1_024),
    PresetRow("tuned", "decode", TALL, 2, 256),
    PresetRow("standard", "decode", TINY, 4, 512),
    PresetRow("extreme", "decode", TALL, 1, 1_024),
    ZooRow("gpt-neo", "train", "fp32", 2, 512),
    ZooRow("gptj", "train", "bf16", 2, 512),
    ZooRow("gpt-bigcode", "train", "fp32", 2, 700),
    ZooRow("gpt-bigcode", "train", "bf16", 4, 512, optimizer="adamw-fused"),
    ZooRow("stablelm", "train", "fp32", 1, 1_024),
    ZooRow("olmo", "train", "bf16", 2, 768),
    ZooRow("olmo", "train", "fp32", 2, 512, autocast="bf16"),
    ZooRow("olmo2", "train", "bf16", 2, 512),
    ZooRow("qwen3", "train", "fp32", 2, 512),
    ZooRow("qwen3-checkpointed", "train", "bf16", 4, 512),
    ZooRow("gemma2", "train", "bf16", 2, 512),
    ZooRow("phi3", "train", "bf16", 3, 512),
    ZooRow("phi3", "inference", "fp32", 1, 900),
    ZooRow("starcoder2", "train", "fp32", 2, 512),
    ZooRow("starcoder2-reentrant", "train", "bf16", 2, 1_024),
    ZooRow("cohere", "train", "bf16", 2, 512, optimizer="adafactor"),
    ZooRow("granite", "train", "fp32", 2, 512, autocast="fp16"),
    ZooRow("helium", "train", "bf16", 2, 512, optimizer="sgd"),
    ZooRow("electra", "train", "fp32", 4, 512),
    ZooRow("electra", "train", "fp32", 4, 512, autocast="bf16"),
    ZooRow("albert", "train", "fp32", 2, 512),
    ZooRow("albert", "train", "bf16", 8, 128),
    ZooRow("xlm-roberta", "train", "fp32", 1, 512),
    ZooRow("modernbert", "train", "bf16", 2, 512),
    ZooRow("modernbert", "train", "fp32", 2, 512),
    ZooRow("camembert", "train", "bf16", 2, 512),
    ZooRow("camembert", "inference", "fp16", 8, 256),
    ZooRow("mpnet", "train", "fp32", 2, 384),
    # Frozen on 2026-11-21, when falcon's rows became development, before any was measured.
    ZooRow("mpt", "train", "bf16", 2, 512),
    ZooRow("smollm3", "train", "bf16", 2, 640),
    ZooRow("gemma3", "train", "bf16", 2, 512),
    ZooRow("codegen", "train", "fp32", 2, 512),
    ZooRow("biogpt", "train", "bf16", 4, 384, optimizer="adamw-fused"),
    ZooRow("xglm", "train", "fp32", 1, 768),
    ZooRow("glm4", "train", "fp32", 2, 512, autocast="bf16"),
    ZooRow("qwen3-moe", "train", "bf16", 2, 512),
    ZooRow("deberta", "train", "fp32", 2, 512),
    ZooRow("ernie", "train", "fp32", 2, 512, autocast="bf16"),
)

PARTS: dict[Part, tuple[PresetRow | ZooRow, ...]] = {"development": DEVELOPMENT, "held-out": HELD_OUT}


def build_case(row: PresetRow | ZooRow) -> Case:
    """The case of a row."""
    if isinstance(row, ZooRow):
        return Case(
            model=f"muse_bench.calibration.zoo:{row.model.replace('-', '_')}",
            config=None,
            mode=row.mode,
            dtype=row.dtype,
            batch=row.batch,
            seq=row.seq,
            vocab_size=zoo.vocabulary(row.model),
            optimizer=row.optimizer,
            autocast=row.autocast,
        )
    preset = find_preset(row.preset)
    vocab_size, d_model, n_layers, n_heads = row.sizes
    new_tokens = 32
    reach = row.seq + new_tokens if row.mode == "decode" else row.seq
    sizes = Sizes(vocab_size=vocab_size, d_model=d_model, n_layers=n_layers, n_heads=n_heads, seq_len=reach)
    return Case(
        model=row.preset,
        config=preset.configure(sizes),
        mode=row.mode,
        dtype=row.dtype or preset.dtype,
        batch=row.batch,
        seq=row.seq,
        vocab_size=vocab_size,
        optimizer=row.optimizer or preset.optimizer,
        micro_batch=preset.micro_batch,
        new_tokens=new_tokens,
    )
