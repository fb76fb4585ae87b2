"""Scores on held-out data, each with its interval and its protocol; the stage `evaluate` puts them together."""
