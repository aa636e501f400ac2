"""What a trained model is worth: its loss on text that it has not seen, if it has not looked ahead."""

import json
import math
from pathlib import Path
from typing import Any

import torch

from muse_bench.errors import UsageError
from muse_bench.outputs import output_of
from muse_bench.quality.batches import read_ids, windows_at
from muse_bench.quality.trial import Trial
from muse_bench.workload import Workload, work_loss


def evaluate(work: Workload, trial: Trial, device: torch.device) -> dict[str, Any]:
    """The mean loss in nats a token over the first validation windows, its perplexity, and bits per byte of text."""
    case = trial.case
    count = trial.validation_tokens // case.seq
    ids = read_ids(trial.validation, count * case.seq + 1, case.vocab_size, device)
    lengths = torch.tensor(json.loads(Path(trial.lengths).read_text(encoding="utf-8")), device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    text_bytes = torch.zeros((), dtype=torch.int64, device=device)
    work.model.eval()
    with torch.no_grad():
        for starts in (torch.arange(count, device=device) * case.seq).split(case.batch):
            inputs, targets = windows_at(ids, starts, case.seq)
            loss += work_loss(work, inputs, targets).double() * targets.numel()
            text_bytes += lengths[targets].sum()
    tokens, nats, size = count * case.seq, float(loss), int(text_bytes)
    mean = nats / tokens
    if not math.isfinite(mean):
        return {"validation_tokens": tokens, "validation_loss": None}
    return {
        "validation_tokens": tokens,
        "validation_loss": mean,
        "perplexity": math.exp(min(mean, 700.0)),
        "bits_per_byte": nats / math.log(2) / size if size else None,
    }


def verdict(loss: float | None, vocab_size: int) -> str | None:
    """Why a run that came to its end has diverged all the same; None when it has not."""
    if loss is None:
        return "the validation loss is not finite"
    uniform = math.log(vocab_size)
    return f"validation loss {loss:.3f} is above {uniform:.3f}, that of a uniform guess" if loss > uniform else None


def refuse_acausal(work: Workload) -> None:
    """A model of a user's own must not look ahead, for it would be trained to copy.

    Raises: UsageError that says so.
    """
    if work.case.config is not None:
        return  # the command line asks the config
    model, ids = work.model.eval(), work.x[:1]
    other = ids.clone()
    other[:, -1] = (other[:, -1] + 1) % work.case.vocab_size
    with torch.no_grad():
        first, second = (output_of(model(rows))[:, :-1] for rows in (ids, other))
    if not torch.allclose(first, second):
        raise UsageError(f"'{work.case.model}' is not causal: the last token changes the logits before it")
