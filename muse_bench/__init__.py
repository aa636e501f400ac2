"""muse-bench measures, explains, predicts and shrinks the GPU memory of language models."""

__version__ = "0.1.0"
