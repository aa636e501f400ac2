"""Small models of many architectures from transformers, each with random weights and no network.

`muse_bench.calibration.zoo:NAME` is a factory for each name of `ARCHITECTURES`. A name that ends in `-checkpointed`
or `-reentrant` is the same model with gradient checkpointing of that kind.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from muse_bench.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

CAUSAL, MASKED = "AutoModelForCausalLM", "AutoModelForMaskedLM"

_LLAMA = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4, "num_attention_heads": 8}
_NEOX = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 8}
_BERT = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4, "num_attention_heads": 8}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

# name: (model type, task, what differs from the type's default config, vocabulary)
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any], int]] = {
    # Used while the rules were written.
    "gpt2": ("gpt2", CAUSAL, {"n_layer": 4}, 50257),
    "gpt2-small": ("gpt2", CAUSAL, {}, 50257),
    "gpt2-eager": ("gpt2", CAUSAL, {"n_layer": 4, "attn_implementation": "eager"}, 50257),
    "llama": ("llama", CAUSAL, {**_LLAMA, "num_key_value_heads": 2}, 32000),
    "qwen2": ("qwen2", CAUSAL, {**_LLAMA, "num_key_value_heads": 4, "tie_word_embeddings": True}, 50000),
    "mistral": ("mistral", CAUSAL, {**_LLAMA, "num_key_value_heads": 2}, 32000),
    "gemma": ("gemma", CAUSAL, {**_LLAMA, "num_key_value_heads": 1, "head_dim": 64}, 50000),
    "phi": ("phi", CAUSAL, _NEOX, 50000),
    "gpt-neox": ("gpt_neox", CAUSAL, _NEOX, 50432),
    "opt": ("opt", CAUSAL, {"hidden_size": 512, "ffn_dim": 2048, "num_hidden_layers": 4, "num_attention_heads": 8,
                            "word_embed_proj_dim": 512}, 50272),
    "bloom": ("bloom", CAUSAL, {"hidden_size": 512, "n_layer": 4, "n_head": 8}, 50000),
    "bert": ("bert", MASKED, {"num_hidden_layers": 4}, 30522),
    "roberta": ("roberta", MASKED, {**_BERT, "max_position_embeddings": 1026}, 50265),
    "distilbert": ("distilbert", MASKED, {"n_layers": 3, "max_position_embeddings": 1024}, 30522),
    "falcon": ("falcon", CAUSAL, {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8}, 65024),
    # Held out: not measured while the rules were written.
    "gpt-neo": ("gpt_neo", CAUSAL, {"hidden_size": 512, "num_layers": 4, "num_heads": 8,
                                    "attention_types": [[["global", "local"], 2]]}, 50257),
    "gptj": ("gptj", CAUSAL, {"n_embd": 512, "n_layer": 4, "n_head": 8, "rotary_dim": 32}, 50400),
    "gpt-bigcode": ("gpt_bigcode", CAUSAL, {"n_embd": 512, "n_layer": 4, "n_head": 8}, 49152),
    "stablelm": ("stablelm", CAUSAL, {**_LLAMA, "num_key_value_heads": 8}, 50304),
    "olmo": ("olmo", CAUSAL, {**_LLAMA, "num_key_value_heads": 8}, 50304),
    "olmo2": ("olmo2", CAUSAL, {**_LLAMA, "num_key_value_heads": 8}, 50304),
    "qwen3": ("qwen3", CAUSAL, {**_LLAMA, "num_key_value_heads": 2, "head_dim": 64}, 60000),
    "gemma2": ("gemma2", CAUSAL, {**_LLAMA, "num_key_value_heads": 4, "head_dim": 64}, 64000),
    "phi3": ("phi3", CAUSAL, {**_LLAMA, "num_key_value_heads": 8, "pad_token_id": 0}, 32064),
    "starcoder2": ("starcoder2", CAUSAL, {**_LLAMA, "num_key_value_heads": 2}, 49152),
    "cohere": ("cohere", CAUSAL, {**_LLAMA, "num_key_value_heads": 8}, 64000),
    "granite": ("granite", CAUSAL, {**_LLAMA, "num_key_value_heads": 8}, 32000),
    "helium": ("helium", CAUSAL, {**_LLAMA, "num_key_value_heads": 8, "head_dim": 64}, 48000),
    "electra": ("electra", MASKED, {**_BERT, "embedding_size": 128}, 30522),
    "albert": ("albert", MASKED, {**_BERT, "embedding_size": 128}, 30000),
    "xlm-roberta": ("xlm-roberta", MASKED, {**_BERT, "max_position_embeddings": 1026}, 250002),
    "modernbert": ("modernbert", MASKED, {**_BERT, "intermediate_size": 768}, 50368),
    "camembert": ("camembert", MASKED, {**_BERT, "max_position_embeddings": 1026}, 32005),
    "mpnet": ("mpnet", MASKED, {**_BERT, "max_position_embeddings": 1026}, 30527),
    # Held out later, when falcon had become one of the first group.
    "mpt": ("mpt", CAUSAL, {"d_model": 512, "n_layers": 4, "n_heads": 8}, 50368),
    "smollm3": ("smollm3", CAUSAL, {**_LLAMA, **_IDS, "num_key_value_heads": 4}, 49152),
    "gemma3": ("gemma3_text", CAUSAL, {**_LLAMA, "num_key_value_heads": 4, "head_dim": 64}, 64000),
    "codegen": ("codegen", CAUSAL, {"n_embd": 512, "n_layer": 4, "n_head": 8, "rotary_dim": 32}, 50400),
    "biogpt": ("biogpt", CAUSAL, _BERT, 42384),
    "xglm": ("xglm", CAUSAL, {"d_model": 512, "num_layers": 4, "attention_heads": 8, "ffn_dim": 2048}, 50000),
    "glm4": ("glm4", CAUSAL, {**_LLAMA, **_IDS, "num_key_value_heads": 2, "head_dim": 64}, 50000),
    "qwen3-moe": ("qwen3_moe", CAUSAL, {**_LLAMA, "num_key_value_heads": 4, "head_dim": 64, "num_experts": 8,
                                        "num_experts_per_tok": 2, "moe_intermediate_size": 512}, 50000),
    "deberta": ("deberta-v2", MASKED, {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, 50000),
    "ernie": ("ernie", MASKED, _BERT, 30522),
}  # fmt: skip


def vocabulary(name: str) -> int:
    """How many ids the model of this name knows."""
    return ARCHITECTURES[_base(name)[0]][3]


def build(name: str) -> nn.Module:
    """The model of this name.

    Raises: UsageError without transformers.
    """
    base, checkpointing = _base(name)
    model_type, task, differences, vocab_size = ARCHITECTURES[base]
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise UsageError(f"'{name}' needs transformers: pip install 'muse-bench[transformers]'") from error
    options = dict(differences)
    attention = {"attn_implementation": options.pop("attn_implementation")} if "attn_implementation" in options else {}
    config = transformers.AutoConfig.for_model(model_type, vocab_size=vocab_size, **options)
    model: nn.Module = getattr(transformers, task).from_config(config, **attention)
    if checkpointing is not None:
        enable: Any = model.gradient_checkpointing_enable
        enable(gradient_checkpointing_kwargs={"use_reentrant": checkpointing == "reentrant"})
    return model


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """`zoo:gpt2` and the like, as factories."""
    spelled = name.replace("_", "-")
    if _base(spelled)[0] not in ARCHITECTURES:
        raise AttributeError(name)
    return lambda: build(spelled)


def _base(name: str) -> tuple[str, str | None]:
    """The architecture's name, and the kind of checkpointing asked for."""
    for kind in ("checkpointed", "reentrant"):
        if name.endswith(f"-{kind}"):
            return name.removesuffix(f"-{kind}"), kind
    return name, None
