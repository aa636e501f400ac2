"""The parts of the language model: one file a part, chosen by the model's config."""
