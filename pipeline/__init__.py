"""Headwater: the stages of a language model, and the rooms that every family of models shares."""

__version__ = "0.1.0"
