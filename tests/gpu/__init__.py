"""What only a GPU can say: correctness on it, memory beside the plan, speed beside its limits. See __main__.py."""
