"""The quality bench: text to tokens, presets trained on equal tokens in equal order, and the record of it."""
