"""What to build and what to run: frozen, validated values that every other part reads.

A `ModelConfig` names the parts of one language model; a `Case` is one model under one protocol.
Both travel between processes as JSON, so they hold plain values only.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, Self

from muse_bench.choices import LARGEST_SIZE, require_choices, require_positive
from muse_bench.errors import UsageError

Backend = Literal["auto", "cuda", "predict"]
Block = Literal["pre-norm", "encoder"]
Checkpointing = Literal["none", "blocks", "everything", "sublayers"]
Dtype = Literal["fp32", "fp16", "bf16"]
Embedding = Literal["dense", "factorised", "htt", "hybrid"]
Execution = Literal["eager", "graph"]
Ffn = Literal["dense", "low-rank", "four-matrix"]
Gate = Literal["soft", "straight-through", "gumbel"]
Head = Literal["dense", "low-rank", "tied"]
Logits = Literal["all", "last"]
Loss = Literal["plain", "fused"]
Mixer = Literal["attention", "ar-ssm", "matrix-ar-ssm"]
Sharding = Literal["fsdp", "tensor", "replicas"]
Mode = Literal["train", "forward-backward", "inference", "decode"]
Norm = Literal["layer-norm", "rms-norm"]
Optimizer = Literal[
    "adamw", "adamw-fused", "adamw-8bit", "muon-8bit", "apollo-mini", "adafactor-8bit", "sgd", "adafactor", "none"
]
Positions = Literal["none", "learned"]
Residence = Literal["device", "host", "accelerate"]
Update = Literal["after", "in-backward"]
WeightFormat = Literal["native", "int8", "int4"]
Workspace = Literal["default", "off"]

# What each workspace setting puts in the environment of the process that runs a case; the rest of these is unset.
WORKSPACE_VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE")
WORKSPACE_ENVIRONMENT: dict[Workspace, dict[str, str]] = {
    "default": {},
    "off": {"CUBLAS_WORKSPACE_CONFIG": ":0:0", "CUBLASLT_WORKSPACE_SIZE": "0"},
}

TRAINING_MODES: tuple[Mode, ...] = ("train", "forward-backward")
# What these count lies on the device; the others' counts are numbers that a replayed graph would not see change.
CAPTURED_OPTIMIZERS: tuple[Optimizer, ...] = ("muon-8bit", "adafactor-8bit", "apollo-mini", "sgd", "none")
INT8_OPTIMIZERS: tuple[Optimizer, ...] = ("adafactor-8bit", "apollo-mini", "none")
MOST_RANKS = 1_024  # each adds pieces to every collective, which a trace goes through
SETUP, HUGGING_FACE = "setup:", "hf:"  # what the names of such models begin with
WITHOUT_RANK = {"embedding": ("dense",), "mixer": ("attention",), "ffn": ("dense",), "head": ("dense", "tied")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes a preset is scaled to."""

    vocab_size: int = 50_000
    d_model: int = 1_024
    n_layers: int = 12
    n_heads: int = 16
    seq_len: int = 2_048

    def __post_init__(self) -> None:
        require_positive(self, "vocab_size", "d_model", "n_layers", "n_heads", "seq_len")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The parts of one language model and their sizes.

    Ranks are None where the chosen part has none. `weight_format` is that of the blocks' matrices; all but int4 train.
    `max_seq_len` sizes learned positions and decode caches. `inference_slots` is how many halves of blocks are on the
    device at a time when weights are in host memory and nothing is trained: with 2, copies run beside the computation.
    `training_slots` is how many are in training: with 3, what one half becomes is copied back while the next comes.
    With `weights` 'accelerate' a peer's engine keeps them in host memory; it copies a module's weights each time that
    the module runs, so a prompt is then read in one go.
    Raises: UsageError on a size or rank that is not positive, a part that needs a rank without one, an unknown
        part, a d_model that its heads do not divide, or a dropout or penalty out of range.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    max_seq_len: int
    block: Block = "pre-norm"
    dropout: float = 0.0
    embedding: Embedding = "dense"
    embedding_rank: int | None = None
    positions: Positions = "none"
    mixer: Mixer = "attention"
    mixer_rank: int | None = None
    state_size: int | None = None
    query_heads: int | None = None
    attention_every: int | None = None
    attention_window: int | None = None
    decay: bool = False
    gate: Gate = "soft"
    gate_l1: float = 0.0
    ffn: Ffn = "dense"
    ffn_rank: int | None = None
    norm: Norm = "layer-norm"
    shared_norm: bool = False
    head: Head = "dense"
    head_rank: int | None = None
    head_bias: bool = False
    loss: Loss = "plain"
    checkpointing: Checkpointing = "none"
    checkpoint_parts: int = 1
    offload: bool = False
    weights: Residence = "device"
    inference_slots: int = 1
    training_slots: int = 2
    weight_format: WeightFormat = "native"
    prefill_chunk: int | None = None
    int8_inference: bool = False

    def __post_init__(self) -> None:
        require_choices(self)
        require_positive(self, "vocab_size", "d_model", "n_layers", "n_heads", "max_seq_len")
        for part, without_rank in WITHOUT_RANK.items():
            _require_rank(self, part, without_rank)
        if (self.mixer == "attention" or self.block == "encoder") and self.d_model % self.n_heads:
            raise UsageError(
                f"d_model {self.d_model} is not divisible by heads {self.n_heads}: choose --heads that divides it"
            )
        if self.embedding == "hybrid" and self.head != "low-rank":
            raise UsageError(f"embedding 'hybrid' shares the rows of a low-rank head, and the head is '{self.head}'")
        require_positive(self, "checkpoint_parts", "inference_slots", "training_slots")
        if self.prefill_chunk is not None:
            require_positive(self, "prefill_chunk")
        if self.offload and self.checkpointing != "sublayers":
            raise UsageError(
                f"offload is for the checkpoints of sublayers, and checkpointing is '{self.checkpointing}': "
                "choose checkpointing 'sublayers', or no offload"
            )
        if self.attention_every is not None:
            require_positive(self, "attention_every")
            if self.attention_window is None or self.attention_window < 1:
                raise UsageError("attention_every needs an attention_window of 1 token or more")
        if self.weights == "host" and (self.checkpointing != "sublayers" or self.head == "tied" or self.int8_inference):
            raise UsageError("weights 'host' needs checkpointing 'sublayers', a head of its own, and no int8_inference")
        if self.weights == "accelerate" and (self.int8_inference or self.weight_format != "native" or self.gate_l1):
            raise UsageError("weights 'accelerate' needs weight_format 'native', and no int8_inference or gate_l1")
        if self.weight_format != "native" and self.block == "encoder":
            raise UsageError("block 'encoder' is PyTorch's own: choose weight_format 'native', or block 'pre-norm'")
        if self.mixer == "matrix-ar-ssm":
            _require_matrix_heads(self)
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout {self.dropout} is not from 0 to below 1")
        if not 0 <= self.gate_l1 < math.inf:
            raise UsageError(f"gate_l1 {self.gate_l1} is not the weight of a penalty: use 0 or more")

    @property
    def causal(self) -> bool:
        """Whether a token's logits depend on it and the tokens before it only."""
        return self.block != "encoder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model under one protocol: everything a worker process needs to build and run it.

    `config` is None for a model that comes from a user's factory, from transformers (hf:NAME) or with a step of its own
    (setup:FUNCTION); `model` then names it. `parameters_asked` is
    the number of parameters that its sizes were chosen for, where they were. `input_shape` is that of one sample, of a
    model that reads no tokens; a sequence and a vocabulary then say nothing.
    `gpu` names the card to predict for, and is None when the case is measured. `host_memory_bytes` is how much host
    memory the user says there is; with `host_folder` a file in that folder takes its place.
    With `sharding` it runs on as many GPUs as there are `ranks`, a process each: weights, gradients and optimizer state
    shared out by FSDP2 ('fsdp'), by DTensor as the model's plan says ('tensor'), or held by all ('replicas'). Each rank
    has a batch of its own, but in tensor parallelism, where all have the same.
    `repeat` tells the runs of one case apart, from 0; each has a process of its own, a prediction's too.
    """

    model: str
    config: ModelConfig | None
    mode: Mode = "train"
    dtype: Dtype = "fp32"
    batch: int = 1
    seq: int = 2_048
    vocab_size: int = 50_000
    input_shape: tuple[int, ...] | None = None
    parameters_asked: int | None = None
    optimizer: Optimizer = "adamw"
    update: Update = "after"
    execution: Execution = "eager"
    autocast: Dtype | None = None
    logits: Logits = "all"
    new_tokens: int = 32
    micro_batch: int | None = None
    warmup_steps: int = 2
    measured_steps: int = 3
    workspace: Workspace = "default"
    seed: int = 0
    gpu: str | None = None
    budget_bytes: int = 8 << 30
    headroom: float = 0.1
    host_memory_bytes: int | None = None
    host_folder: str | None = None
    sharding: Sharding | None = None
    ranks: int = 1
    repeat: int = 0

    def __post_init__(self) -> None:
        require_choices(self)
        require_positive(self, "batch", "seq", "vocab_size", "new_tokens", "measured_steps", "ranks")
        if self.sharding is not None:
            _require_shardable(self)
        if self.micro_batch is not None:
            require_positive(self, "micro_batch")
        if self.input_shape is not None and not all(0 < size <= LARGEST_SIZE for size in self.input_shape):
            raise UsageError(f"input_shape {self.input_shape} is no shape: use whole numbers from 1 to 2^40")
        if self.autocast == "fp32":
            raise UsageError("autocast 'fp32' is no autocast: choose fp16 or bf16, or leave it out")
        if self.update == "in-backward" and self.micro_batch is not None and self.micro_batch < self.batch:
            raise UsageError(
                f"micro-batch {self.micro_batch} with an update in backward would update after each: leave one out"
            )
        if self.mode in TRAINING_MODES and self.config is not None and self.config.weights == "accelerate":
            raise UsageError(f"weights 'accelerate' are not for {self.mode}: choose --mode inference or decode")
        if self.mode == "train" and self.update == "after" and self.config and self.config.weights == "host":
            raise UsageError("weights in host memory are updated in backward: set update to 'in-backward'")
        if self.mode in TRAINING_MODES and self.config is not None and self.config.weight_format == "int4":
            raise UsageError(
                f"int4 weights are not trained, and the mode is '{self.mode}': "
                "choose --mode inference or decode, or weight_format 'int8'"
            )
        if (
            self.mode == "train"
            and self.config is not None
            and self.config.weight_format == "int8"
            and self.optimizer not in INT8_OPTIMIZERS
        ):
            raise UsageError(f"optimizer '{self.optimizer}' does not train int8 weights: choose 'adafactor-8bit'")
        if self.mode == "train" and self.execution == "graph" and self.optimizer not in CAPTURED_OPTIMIZERS:
            raise UsageError(f"no CUDA graph can hold steps of optimizer '{self.optimizer}': set execution to 'eager'")
        if self.warmup_steps < 0:
            raise UsageError(f"warm-up steps {self.warmup_steps} is negative: use 0 or more")
        if self.mode == "decode" and self.config is not None and not self.config.causal:
            raise UsageError(f"'{self.model}' cannot decode: it is not causal; choose another --mode or model")

    def shares_model(self, other: "Case") -> bool:
        """Whether the other case's model is this one's: built alike, with nothing whose size follows the mode."""
        if self.config is None or other.config is None or self.config.positions != "none":
            return False
        if self.config.int8_inference:  # its matrices are replaced in some modes
            return False
        theirs = dataclasses.replace(other.config, max_seq_len=self.config.max_seq_len)
        how = ("dtype", "seed", "host_memory_bytes", "host_folder")
        return self.config == theirs and all(getattr(self, name) == getattr(other, name) for name in how)

    @property
    def has_own_step(self) -> bool:
        """Whether the step is someone's own, to which mode, batch and sequence say nothing."""
        return self.model.startswith(SETUP)

    @property
    def has_own_vocabulary(self) -> bool:
        """Whether the model brings its vocabulary with it, if it has one."""
        return self.model.startswith((SETUP, HUGGING_FACE))

    @property
    def traced_steps(self) -> int:
        """How many steps show both peaks: the warm-up, and one more in the steady state."""
        if self.single_step:
            return 1
        # A step of decoding leaves nothing behind, and takes long to trace: the second is as good as any later one.
        return (min(self.warmup_steps, 1) if self.mode == "decode" else self.warmup_steps) + 1

    @property
    def first_steady_step(self) -> int:
        """The index of the first step that the steady peak looks at."""
        return self.traced_steps - 1

    @property
    def limit_bytes(self) -> int:
        """The budget less its headroom: what the whole device may use for a PASS."""
        return int(self.budget_bytes * (1 - self.headroom))

    @property
    def single_step(self) -> bool:
        """The reports' protocol looks at the first step of a fresh process, and at no other."""
        return self.mode == "forward-backward"

    @property
    def identity(self) -> str:
        """A digest of all that is asked for, whichever GPU it is asked of."""
        asked = {name: value for name, value in self.to_json().items() if name != "gpu"}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `from_json` reads them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The case that `to_json` wrote."""
        config, shape = values["config"], values.get("input_shape")
        parts = {
            "config": None if config is None else ModelConfig(**config),
            "input_shape": None if shape is None else tuple(shape),
        }
        return cls(**{**values, **parts})


def _require_shardable(case: Case) -> None:
    """Raises: UsageError for what the engines of PyTorch cannot share out, or not as one case on one GPU does."""
    if not 2 <= case.ranks <= MOST_RANKS:
        raise UsageError(f"{case.ranks} ranks cannot share a case out: give 2 to {MOST_RANKS:,}")
    if case.mode not in ("train", "inference"):
        raise UsageError(f"mode '{case.mode}' is for one GPU: choose --mode train or inference")
    if case.has_own_step:
        raise UsageError("a setup brings a step of its own, which shards its model itself: leave out the sharding")
    config = case.config
    if case.update == "in-backward" or (config is not None and (config.weights != "device" or config.offload)):
        raise UsageError(f"'{case.model}' has weights in host memory or an update in backward: choose another model")
    if config is not None and (config.weight_format != "native" or config.int8_inference):
        raise UsageError(f"'{case.model}' has weights in steps of scales, for one GPU: choose another model")
    if case.sharding == "tensor" and config is not None and config.loss == "fused":
        raise UsageError("a fused loss reads the whole head, which tensor parallelism cuts: choose loss=plain")


def _require_matrix_heads(config: ModelConfig) -> None:
    """Raises: UsageError unless the sizes of a matrix-state mixer are given and fit its heads."""
    if config.state_size is None or config.query_heads is None or min(config.state_size, config.query_heads) < 1:
        raise UsageError("mixer 'matrix-ar-ssm' needs a state_size and query_heads of 1 or more")
    if config.n_heads % config.query_heads:
        raise UsageError(f"heads {config.n_heads} are not divisible by query_heads {config.query_heads}")
    if config.mixer_rank is not None and config.mixer_rank % config.n_heads:
        raise UsageError(
            f"mixer_rank {config.mixer_rank} is not divisible by heads {config.n_heads}: choose --heads that divides it"
        )


def _require_rank(config: ModelConfig, part: str, without_rank: tuple[str, ...]) -> None:
    rank = getattr(config, f"{part}_rank")
    if getattr(config, part) in without_rank:
        return
    if rank is None:
        raise UsageError(f"{part} '{getattr(config, part)}' needs a {part}_rank")
    require_positive(config, f"{part}_rank")
