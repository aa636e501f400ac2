"""Measurement on a GPU: the allocator from inside the process, NVML from outside it."""

from muse_bench.called import let_be_called

let_be_called(__name__)
