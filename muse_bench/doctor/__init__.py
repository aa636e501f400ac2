"""What this machine can measure and why not, and whether the kernels compute the right thing on it."""
