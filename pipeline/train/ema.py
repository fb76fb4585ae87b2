"""An fp32 shadow of the weights that the optimizer updates, whole or sharded alike."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Ema:
    """Exponential moving average: shadow <- decay * shadow + (1 - decay) * weight, after each update.

    It follows the engine's master tensors, which are whole parameters on one process and fp32 shards under ZeRO, so
    it costs no communication and never sees a bf16 rounding.
    """

    def __init__(self, masters: list[Tensor], decay: float):
        self.decay = decay
        self.masters = masters
        self.shadows = [master.detach().clone().float() for master in masters]

    @torch.no_grad()
    def update(self) -> None:
        torch._foreach_lerp_(self.shadows, [master.detach() for master in self.masters], 1 - self.decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within, the masters hold the shadows' values and the shadows hold the masters'."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for shadow, master in zip(self.shadows, self.masters, strict=True):
            kept = master.detach().clone()
            master.detach().copy_(shadow)
            shadow.copy_(kept)
