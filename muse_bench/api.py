"""What the command line does, from Python: `predict`, `measure` and `watch`, which give the same records.

Imports no torch before it is needed: a name is built and run in processes of their own.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from muse_bench.analysis.verdict import judge
from muse_bench.cli.cases import build_cases
from muse_bench.cli.options import BudgetOptions, ProtocolOptions, ScaleOptions
from muse_bench.cli.sharding import DEFAULT_RANKS
from muse_bench.config import SETUP, Backend, Case, Dtype, Logits, Mode, Optimizer, Sharding, Workspace
from muse_bench.errors import UsageError
from muse_bench.execution.at_hand import choose_gpu
from muse_bench.execution.runner import DEFAULT_GPU, Runner
from muse_bench.record import Record
from muse_bench.step import Step
from muse_bench.units import format_shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from muse_bench.models.given import Given


class Options(TypedDict, total=False):
    """The options of `muse-bench predict` and `measure`, by the same names and with the same defaults.

    Sizes other than batch and seq are for presets. `input_shape` is that of one sample, '3x224x224' or (3, 224, 224),
    for a model that reads no tokens. Without `dtype` a model of your own keeps the one that it has. `sharding` shares a
    model that is given by its name out among `ranks` GPUs, 2 unless told.
    """

    mode: Mode
    batch: int
    seq: int
    vocab: int
    input_shape: str | Sequence[int]
    params: str
    d_model: int
    layers: int
    heads: int
    dtype: Dtype
    autocast: Literal["fp16", "bf16"]
    optimizer: Optimizer
    logits: Logits
    new_tokens: int
    micro_batch: int
    warmup: int
    steps: int
    workspace: Workspace
    seed: int
    budget: str
    headroom: str
    sharding: Sharding
    ranks: int


def predict(model: "str | Given", *, gpu: str = DEFAULT_GPU, **options: Unpack[Options]) -> Record:
    """The record of a model on the named GPU, with no GPU here.

    Args:
        model: what MODEL is on the command line: that runs in a process of its own. Or an nn.Module, a function that
            returns one, a Step on `meta`, or a function of a device that returns a Step: these are traced in this
            process, and nothing that you hold is changed.
    Raises: UsageError for a wrong option or a model that cannot be built; UntraceableModel for one that needs a GPU.
    """
    return find(model, "predict", gpu, options)


def measure(model: "str | Given", **options: Unpack[Options]) -> Record:
    """The record of a model on this machine's CUDA GPU; arguments are those of `predict`, a Step being on CUDA.

    A name is measured in processes of its own. What is given is measured in this process, less what this held before.
    Raises: UsageError where there is no GPU, and as `predict`.
    """
    return find(model, "cuda", None, options)


class Watched:
    """What `watch` saw; `record` is there when its block is over."""

    def __init__(self) -> None:
        self._record: Record | None = None

    @property
    def record(self) -> Record:
        """The record. Raises: UsageError while the block runs, and when it raised."""
        if self._record is None:
            raise UsageError("there is no record before the block of muse_bench.watch() is over")
        return self._record


@contextlib.contextmanager
def watch(
    model: "nn.Module | Sequence[nn.Module] | None" = None,
    optimizer: "torch.optim.Optimizer | None" = None,
    inputs: "Sequence[Tensor]" = (),
) -> Iterator[Watched]:
    """Watches a training loop of your own in this process, on CUDA: its peaks and, given a model, their ledger.

    The peaks are those of the whole process while the block runs. With a model each operation is followed, which takes
    time and no memory on the device.
    Raises: UsageError where there is no GPU.
    """
    from muse_bench.execution.here import watched

    step = None if model is None else Step(_nothing, model, optimizer, inputs)
    seen = Watched()
    with watched(Case(model=f"{SETUP}watch", config=None, seq=1), step) as found:
        yield seen
    seen._record = judge(found[0])


def find(model: "str | Given", backend: Backend, gpu: str | None, options: Options) -> Record:
    """The record of a model, on whichever backend."""
    if backend == "auto":
        backend = "cuda" if _has_cuda() else "predict"
    gpu = None if backend == "cuda" else gpu
    if isinstance(model, str):
        case = _case(model, options)
        with Runner(backend, workspace=case.workspace, gpu=gpu) as runner:
            (record,) = runner.run([case])
        return judge(record)
    from muse_bench.execution import here
    from muse_bench.models.given import name_of

    if "sharding" in options:
        raise UsageError("each rank builds its model by its name: give 'file.py:factory' or a preset, not the model")
    case, casts = _case(name_of(model), options), "dtype" in options
    if backend == "cuda":
        return judge(here.measure_here(case, model, casts=casts))
    return judge(here.predict_here(case, model, choose_gpu(gpu or DEFAULT_GPU), casts=casts))


def _case(name: str, options: Options) -> Case:
    """As the command line makes it. Raises: TypeError for an option that there is not."""
    unknown = sorted(set(options) - set(Options.__annotations__))
    if unknown:
        raise TypeError(f"there is no option '{unknown[0]}': choose from {', '.join(Options.__annotations__)}")
    scale, protocol, budget = (_given(group, options) for group in (ScaleOptions, ProtocolOptions, BudgetOptions))
    shape = options.get("input_shape")
    if shape is not None and not isinstance(shape, str):
        shape = format_shape(shape)
    (case,) = build_cases([name], ScaleOptions(**scale), ProtocolOptions(**protocol), BudgetOptions(**budget), shape)
    return _shared_out(case, options)


def _shared_out(case: Case, options: Options) -> Case:
    """Raises: UsageError for ranks that nothing is shared out among."""
    if "sharding" in options:
        ranks = options.get("ranks", DEFAULT_RANKS)
        return dataclasses.replace(case, execution="eager", sharding=options["sharding"], ranks=ranks)
    if "ranks" in options:
        raise UsageError(f"ranks={options['ranks']} shares nothing out: give sharding='fsdp', 'tensor' or 'replicas'")
    return case


def _given(group: type[Any], options: Any) -> dict[str, Any]:
    return {field.name: options[field.name] for field in dataclasses.fields(group) if field.name in options}


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _nothing() -> None:
    """The step is the caller's loop."""
