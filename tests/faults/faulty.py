"""Models that do something to their process: named STRIKE_in_PHASE, for a command line to run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

GIB = 1 << 30
PIECE = b"a line of what a model has to say\n" * (1 << 15)


def kill() -> None:
    """As the system's own killer does when host memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def oom() -> None:
    """As PyTorch's allocator does."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def fail() -> None:
    """As code with a mistake does."""
    raise RuntimeError("two shapes\ndo not fit")


def leave() -> None:
    """As a script does that was never meant to be imported."""
    sys.exit("usage: train.py DATA")


def hang() -> None:
    """As a collective does whose other ranks are gone."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(600)


def hang_with_child() -> None:
    """The same with a process of its own, which holds every descriptor open."""
    subprocess.Popen(["sleep", "600"], close_fds=False)
    Path("child").write_text(str(fork_sleeper()))
    hang()


def die_with_child() -> None:
    """A loader's process goes on when its parent is killed."""
    Path("child").write_text(str(fork_sleeper()))
    kill()


def fork_sleeper() -> int:
    """The number of a copy of this process that sleeps."""
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    return child


def shout() -> None:
    """A gigabyte to stdout and another to stderr, and how much the parent's memory grew meanwhile, in bytes."""
    before = parent_peak_bytes()
    for descriptor in (1, 2):
        for _ in range(GIB // len(PIECE) + 1):
            os.write(descriptor, PIECE)
    Path("grown").write_text(str(parent_peak_bytes() - before))


def parent_peak_bytes() -> int:
    """The most memory that the parent has had at once."""
    lines = Path(f"/proc/{os.getppid()}/status").read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1]) << 10


def babble() -> None:
    """Answers in the runner's own channel, whose descriptor it has found."""
    for descriptor in range(3, 32):
        try:
            os.write(descriptor, b"{not an answer\n")
        except OSError:
            continue


def remove_folder() -> None:
    """Takes away the folder that the run is to be saved in."""
    for path in Path("out").iterdir():
        path.unlink()
    Path("out").rmdir()


def wait() -> None:
    """Until somebody says so."""
    Path("waits").touch()
    while not Path("go").exists():
        time.sleep(0.02)


STRIKES: dict[str, Callable[[], None]] = {
    one.__name__: one
    for one in (kill, oom, fail, leave, hang, hang_with_child, die_with_child, shout, babble, remove_folder, wait)
}


class Model(nn.Module):
    """A table that is its own head; it strikes in the phase that it is given."""

    def __init__(self, strike: Callable[[], None], phase: str) -> None:
        super().__init__()
        self.strike, self.phase = strike, phase
        self.table = nn.Embedding(61, 8)
        if phase == "build":
            strike()
        if phase == "optimizer":
            self.handle = register_optimizer_step_pre_hook(self.before_step)
        if phase == "instrumented" and self.is_second():
            strike()

    def forward(self, ids: Tensor) -> Tensor:
        if self.phase == "forward":
            self.strike()
        logits: Tensor = self.table(ids) @ self.table.weight.t()
        if self.phase == "backward" and logits.requires_grad:
            logits.register_hook(lambda _: self.strike())
        return logits

    def before_step(self, *_: Any) -> None:
        """Once: what the hook would do to the next case is not this one's."""
        self.handle.remove()
        self.strike()

    def is_second(self) -> bool:
        """Whether a process before this one has built it: the headline's run, of which this is the explanation."""
        mark = Path("built")
        second = mark.exists()
        mark.touch()
        return second


def __getattr__(name: str) -> Callable[[], Model]:
    strike, _, phase = name.partition("_in_")
    if strike not in STRIKES:
        raise AttributeError(name)
    return lambda: Model(STRIKES[strike], phase)
