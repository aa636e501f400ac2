"""Models over several GPUs, each a process of its own, by PyTorch's own engines: FSDP2, DTensor and replicas."""
