"""muse-bench measures, explains, predicts and shrinks the GPU memory of language models."""

from muse_bench.step import Step

__all__ = ["Step", "__version__"]
__version__ = "0.1.0"
