"""Prediction without a GPU: a step becomes allocation events, and those become peaks."""

from muse_bench.called import let_be_called

let_be_called(__name__)
