"""Measurement on a GPU: the allocator from inside the process, NVML from outside it."""
