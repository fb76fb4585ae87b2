"""Rewards of the shipped recipes: what an answer is worth, from 0 to 1."""

import re

from pipeline.data.functions import accepted


def parses(completion: str, prompt: str, header: str) -> float:
    """1 where the function that `header` begins and the completion goes on with is Python."""
    return float(accepted(header, completion))


def adds_up(completion: str, prompt: str, answer: int) -> float:
    """1 where the last number of the completion is the answer."""
    numbers = re.findall(r"-?\d+", completion)
    return float(bool(numbers) and int(numbers[-1]) == answer)
