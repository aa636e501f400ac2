"""What a model returns, and the losses on it: those of tokens' logits and of classes' scores."""

import inspect
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from muse_bench.errors import UsageError
from muse_bench.layers.head import plain_loss
from muse_bench.models.language_model import LanguageModel
from muse_kernels.precision import accumulation_dtype

OF_ITS_OWN = "choose another --mode, or bring a loss with --setup file.py:function"


def output_of(returned: Any) -> Tensor:
    """The tensor in what a model returns: itself, or `.logits` or `.last_hidden_state` of an object.

    Raises: UsageError for anything else.
    """
    for found in (returned, getattr(returned, "logits", None), getattr(returned, "last_hidden_state", None)):
        if isinstance(found, Tensor):
            return found
    raise UsageError(
        f"the model returned {type(returned).__name__}, not a tensor or an object with .logits or .last_hidden_state: "
        "bring a step with --setup file.py:function"
    )


def token_loss(model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of the targets (batch, seq), by whichever way the model offers.

    Raises: UsageError for a model that returns no logits of tokens.
    """
    if isinstance(model, LanguageModel):
        return model.loss(ids, targets)
    if "labels" in inspect.signature(model.forward).parameters:  # as the models of transformers do
        loss: Tensor = model(input_ids=ids, labels=targets).loss
        return loss
    returned = model(ids)
    logits = output_of(returned)
    if logits is getattr(returned, "last_hidden_state", None):
        raise UsageError(f"{type(model).__name__} returns hidden states, which have no loss: {OF_ITS_OWN}")
    if logits.shape[:-1] != targets.shape:
        raise UsageError(_no_loss(model, logits, "(batch, seq, vocab)"))
    return plain_loss(logits, targets)


def class_loss(model: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of scores (batch, classes), in float32 (float64 for float64).

    Args:
        targets: (batch,), any whole numbers: they become classes in place, for how many there are is the model's.
    Raises: UsageError for a model that returns something else.
    """
    scores = output_of(model(x))
    if scores.dim() != 2 or len(scores) != len(targets):
        raise UsageError(_no_loss(model, scores, "(batch, classes)"))
    wide = scores.to(accumulation_dtype(scores.dtype))
    return functional.cross_entropy(wide, targets.remainder_(scores.shape[1]))


def _no_loss(model: nn.Module, output: Tensor, wanted: str) -> str:
    shape = tuple(output.shape)
    return f"{type(model).__name__} returns {shape}, and the loss of --mode train is that of {wanted}: {OF_ITS_OWN}"
