"""The allocator's settings in this process, as PyTorch reads them. Imports no torch."""

import os

from muse_bench.predict.allocator import AllocatorConfig


def allocator_config() -> AllocatorConfig:
    """What the simulated allocator has to do as PyTorch's does."""
    return AllocatorConfig.from_environment_string(allocator_setting())


def allocator_setting() -> str:
    """The text of the setting; empty without one."""
    return os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF") or ""
