"""Presets as data, the one language model class, and models from a user's own code. Importing this needs no torch."""
