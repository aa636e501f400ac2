"""One file a kernel: its `BENCHMARK`, with the cases, what runs them, the least that must move, and the goals."""
