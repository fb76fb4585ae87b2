"""The language model: its recipe, weights, adapters and decoding."""
