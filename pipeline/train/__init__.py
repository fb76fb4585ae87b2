"""How any net learns: the contract of a model family, the loop, and what is kept of it."""
