"""Tokenizers of our own: train, save, encode, measure, convert. Imports nothing of pipeline."""
