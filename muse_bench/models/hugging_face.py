"""Models of transformers by config, with random weights and no network: hf:gpt2, or hf:./folder with a config.json."""

import difflib
import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from muse_bench.config import HUGGING_FACE
from muse_bench.errors import UsageError
from muse_bench.models.external import one_line

INSTALL = "pip install 'muse-bench[transformers]'"


def build_hugging_face(reference: str, seq: int) -> nn.Module:
    """The causal language model that 'hf:NAME' names.

    Raises: UsageError without transformers, for what is neither a folder with a config nor a type of model, for a type
        that is no causal language model, and for a sequence that its positions do not reach.
    """
    name = reference.removeprefix(HUGGING_FACE)
    if importlib.util.find_spec("transformers") is None:
        raise UsageError(f"'{reference}' needs transformers: {INSTALL}")
    config = _config(name)
    reach = getattr(config, "max_position_embeddings", None)
    if isinstance(reach, int) and seq > reach:
        raise UsageError(f"'{reference}' has {reach:,} positions, and --seq is {seq:,}: give --seq {reach} or less")
    names = importlib.import_module("transformers.models.auto.modeling_auto").MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if (kind := config.model_type) not in names:
        raise UsageError(f"'{reference}' is of type {kind}, which is no causal language model: use --setup")
    try:
        auto = importlib.import_module("transformers").AutoModelForCausalLM
        model: nn.Module = auto.from_config(config, trust_remote_code=False)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # whatever sizes that do not fit each other, or a package that is missing, lead to
        raise UsageError(f"'{reference}' cannot be built: {one_line(error)}") from error
    return model


def own_vocabulary(model: nn.Module) -> int | None:
    """How many ids the model has an embedding for, as its config says."""
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    return size if isinstance(size, int) else None


def _config(name: str) -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
    auto = importlib.import_module("transformers").AutoConfig
    known = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    folder = Path(name).expanduser()
    if name and (folder / "config.json").is_file():
        try:
            return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # whatever a broken config.json leads to
            raise UsageError(f"'{folder / 'config.json'}' is no config of transformers: {one_line(error)}") from error
    if name not in known:
        close = _close(name, list(known.keys()))
        raise UsageError(
            f"'{name}' is no folder with a config.json, and no type of model that transformers knows{close}; "
            "nothing is downloaded"
        )
    return auto.for_model(name)


def _close(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f" (such as {', '.join(close or ['gpt2', 'llama', 'qwen2'])})"
