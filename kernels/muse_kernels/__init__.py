"""Memory-lean operations for language models, each a folder: its definition, a lean implementation, Triton kernels.

The memory that a docstring states is in bytes; it leaves out vectors of one number a token, row or channel.
"""

from muse_kernels.causal_convolution import causal_convolution
from muse_kernels.diagonal_scan import diagonal_scan
from muse_kernels.discretise import discretise
from muse_kernels.gated_rms_norm import gated_rms_norm
from muse_kernels.gated_scan import gated_scan
from muse_kernels.host_rows import host_rows
from muse_kernels.implementation import Implementation
from muse_kernels.int4_unpack import int4_unpack, quantise_int4
from muse_kernels.int8_linear import int8_linear, quantise_int8
from muse_kernels.linear_cross_entropy import linear_cross_entropy, tensor_train_cross_entropy
from muse_kernels.low_rank_ffn import low_rank_ffn
from muse_kernels.rms_norm import rms_norm
from muse_kernels.semiseparable_mix import semiseparable_mix, semiseparable_step
from muse_kernels.tensor_train import tt_shape
from muse_kernels.tt_embedding import tt_embedding
from muse_kernels.tt_linear import tt_linear

__all__ = [
    "Implementation",
    "causal_convolution",
    "diagonal_scan",
    "discretise",
    "gated_rms_norm",
    "gated_scan",
    "host_rows",
    "int4_unpack",
    "int8_linear",
    "linear_cross_entropy",
    "low_rank_ffn",
    "quantise_int4",
    "quantise_int8",
    "rms_norm",
    "semiseparable_mix",
    "semiseparable_step",
    "tensor_train_cross_entropy",
    "tt_embedding",
    "tt_linear",
    "tt_shape",
]
