"""Runs cases in worker processes and makes records of what they give."""
