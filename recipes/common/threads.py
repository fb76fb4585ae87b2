"""Computing on one thread for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, one thread computes: a sum's rounding depends on how many share it, and small matrices lose by two.

    Matrices of some hundred rows took up to 100 times as long on two busy cores as on one thread.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
