"""Headwater's engine room: the loop, the stages, and the language model."""

__version__ = "0.1.0"
