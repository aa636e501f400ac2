"""Prediction without a GPU: a step becomes allocation events, and those become peaks."""
