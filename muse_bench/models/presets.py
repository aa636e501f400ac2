"""The presets: each one a row of data that `configure` scales to a vocabulary, width, depth and length.

To add a preset, add a row. A rank that follows from the width is a `Share`: d_model over a divisor
(floor division), and at least a minimum.
"""

import difflib
from dataclasses import dataclass
from typing import Any

from muse_bench.config import Dtype, Execution, ModelConfig, Optimizer, Sizes, Update
from muse_bench.errors import UsageError


@dataclass(frozen=True, slots=True)
class Share:
    """A rank that is a share of d_model: times * d_model // divisor, down to a multiple, and at least the minimum."""

    divisor: int
    minimum: int = 1
    multiple: int = 1
    times: int = 1

    def of(self, d_model: int) -> int:
        """The rank at this width."""
        share = self.times * d_model // self.divisor
        return max(share // self.multiple * self.multiple or share, self.minimum)


@dataclass(frozen=True, slots=True)
class Preset:
    """A named model: its parts, its training dtype and optimizer, and what it is in one line."""

    summary: str
    parts: dict[str, Any]
    dtype: Dtype = "fp32"
    optimizer: Optimizer = "adamw"
    micro_batch: int | None = None
    update: Update = "after"
    execution: Execution = "eager"

    @property
    def trains(self) -> bool:
        """Whether it can be trained: weights of 4 bits and those that a peer's engine keeps cannot."""
        return self.parts.get("weight_format") != "int4" and self.parts.get("weights") != "accelerate"

    def configure(self, sizes: Sizes) -> ModelConfig:
        """The configuration at these sizes."""
        parts = {name: part.of(sizes.d_model) if isinstance(part, Share) else part for name, part in self.parts.items()}
        scaled: dict[str, Any] = {
            "vocab_size": sizes.vocab_size,
            "d_model": sizes.d_model,
            "n_layers": sizes.n_layers,
            "n_heads": sizes.n_heads,
            "max_seq_len": sizes.seq_len,
        }
        return ModelConfig(**{**scaled, **parts})


_LEVEL: dict[str, Any] = {"embedding": "htt", "mixer": "ar-ssm", "loss": "fused"}

_MUSE: dict[str, Any] = {
    "embedding": "hybrid",
    "embedding_rank": 32,
    "n_heads": Share(128),
    "mixer": "matrix-ar-ssm",
    "mixer_rank": Share(1),
    "state_size": 32,
    "query_heads": 1,
    "attention_every": 2,
    "attention_window": 512,
    "ffn": "low-rank",
    "ffn_rank": Share(2, times=3),
    "norm": "rms-norm",
    "head": "low-rank",
    "head_rank": Share(8, multiple=32, times=3),
    "loss": "fused",
    "checkpointing": "sublayers",
    "offload": True,
    "weights": "host",
}

PRESETS: dict[str, Preset] = {
    "encoder": Preset(
        "the reports' baseline: nn.TransformerEncoder, neither causal nor positional",
        {"block": "encoder", "n_heads": 8, "dropout": 0.1, "head_bias": True},
    ),
    "baseline": Preset(
        "an honest GPT in plain PyTorch: causal, pre-norm, SDPA, untied head, float32",
        {"positions": "learned"},
    ),
    "tuned": Preset(
        "what a good engineer would use today: bf16, flash SDPA, tied head, checkpointing, fused loss and AdamW",
        {"positions": "learned", "head": "tied", "loss": "fused", "checkpointing": "blocks"},
        dtype="bf16",
        optimizer="adamw-fused",
    ),
    "standard": Preset(
        "level 1: HTT rank 16, AR-SSM rank 32, four-matrix FFN, low-rank head",
        {
            **_LEVEL,
            "embedding_rank": 16,
            "mixer_rank": 32,
            "ffn": "four-matrix",
            "ffn_rank": Share(16),
            "head": "low-rank",
            "head_rank": Share(32, 32),
            "head_bias": True,
            "checkpointing": "blocks",
        },
        dtype="fp16",
    ),
    "ultra": Preset(
        "level 2: HTT rank 4, AR-SSM rank 8, low-rank FFN, one LayerNorm a block, everything checkpointed",
        {
            **_LEVEL,
            "embedding_rank": 4,
            "mixer_rank": 8,
            "ffn": "low-rank",
            "ffn_rank": Share(64, 8),
            "shared_norm": True,
            "head": "low-rank",
            "head_rank": Share(128, 4),
            "head_bias": True,
            "checkpointing": "everything",
        },
        dtype="fp16",
    ),
    "extreme": Preset(
        "level 3: HTT rank 3 tied to the head, AR-SSM rank 6, INT8 weights at inference",
        {
            **_LEVEL,
            "embedding_rank": 3,
            "mixer_rank": 6,
            "ffn": "low-rank",
            "ffn_rank": Share(96, 4),
            "norm": "rms-norm",
            "head": "tied",
            "checkpointing": "everything",
            "int8_inference": True,
        },
        dtype="fp16",
    ),
    "ultimate": Preset(
        "level 4: HTT rank 2 tied to the head, AR-SSM rank 4, one RMSNorm a block, micro-batch 1",
        {
            **_LEVEL,
            "embedding_rank": 2,
            "mixer_rank": 4,
            "ffn": "low-rank",
            "ffn_rank": Share(128, 2),
            "norm": "rms-norm",
            "shared_norm": True,
            "head": "tied",
            "checkpointing": "everything",
        },
        dtype="fp16",
        micro_batch=1,
    ),
    "muse": Preset(
        "past 95 %: matrix-state AR-SSM and windows of attention, 8-bit Muon in backward, weights in host memory",
        {**_MUSE, "checkpoint_parts": 2, "prefill_chunk": 128},
        dtype="bf16",
        optimizer="muon-8bit",
        update="in-backward",
        execution="graph",
    ),
    "streamed": Preset(
        "models far larger than the card: muse with INT8 weights, trained with two numbers a row and column of state",
        {**_MUSE, "weight_format": "int8", "inference_slots": 2, "training_slots": 3, "prefill_chunk": 1_024},
        dtype="bf16",
        optimizer="adafactor-8bit",
        update="in-backward",
    ),
}


def find_preset(name: str) -> Preset:
    """The preset of this name.

    Raises: UsageError that names the closest presets.
    """
    if name in PRESETS:
        return PRESETS[name]
    close = difflib.get_close_matches(name, PRESETS, n=2) or list(PRESETS)
    raise UsageError(
        f"unknown model '{name}': choose from {', '.join(close)}, or give package.module:factory or file.py:factory"
    )
