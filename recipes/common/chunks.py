"""Drawing in chunks of one size, so that sample i is the same bits whatever is drawn beside it."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Draw = Callable[..., Tensor]  # (seeds, labels and the like: lists of one length) -> one row each


@torch.no_grad()
def in_chunks(draw: Draw, *columns: list[int], size: int) -> np.ndarray:
    """What `draw` makes of these columns, `size` rows at a time; the last chunk is padded and its padding dropped.

    A matrix product's rounding depends on how many rows it has, so every chunk has the same number: sample i is then
    the same bits whatever is drawn beside it.
    """
    count = len(columns[0])
    missing = math.ceil(count / size) * size - count
    padded = [[*column, *column[:1] * missing] for column in columns]
    starts = range(0, count, size)
    chunks = [draw(*(column[start : start + size] for column in padded)) for start in starts]
    return torch.cat(chunks)[:count].cpu().numpy()
