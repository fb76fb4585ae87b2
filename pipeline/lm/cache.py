"""Keys and values of what was read, in memory with room behind them: a token is written, its past is not copied.

Shapes: B rows, H heads, T positions, D features of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class RoomyLayer(DynamicLayer):
    """A layer's keys and values [B, H, T, D], the beginning of memory that doubles where it is full.

    transformers' DynamicLayer makes them anew at every token. What attention is given is equal, bit for bit.

    limit: positions that will ever be asked for.
    """

    def __init__(self, layer: DynamicLayer, limit: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.limit, self.held = limit, 0
        self.memory = [_like(states, 0) for states in (layer.keys, layer.values)]
        self.update(layer.keys, layer.values)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """All keys and values, the new ones [B, H, N, D] behind those before."""
        begin, self.held = self.held, self.held + key_states.shape[-2]
        if self.held > self.memory[0].shape[-2]:
            room = max(self.held, min(2 * self.held, self.limit))
            bigger = [_like(states, room) for states in (key_states, value_states)]
            for memory, before in zip(bigger, self.memory, strict=True):
                memory[:, :, :begin] = before[:, :, :begin]
            self.memory = bigger
        for memory, new in zip(self.memory, (key_states, value_states), strict=True):
            memory[:, :, begin : self.held] = new
        return self._show()

    def batch_select_indices(self, indices: Tensor) -> None:
        self.memory = [memory[indices] for memory in self.memory]
        self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        self.keys, self.values = (memory[:, :, : self.held] for memory in self.memory)
        return self.keys, self.values


SELECTING = (RoomyLayer, DynamicSlidingWindowLayer)  # whose rows are told apart, and nothing beside them


def _like(states: Tensor, positions: int) -> Tensor:
    return states.new_empty(*states.shape[:2], positions, states.shape[-1])


def roomy(cache: Any, limit: int) -> Any:
    """The cache that a model made of its prompts, its layers of full attention with room behind them.

    Windows, states and convolutions, which do not grow, and caches of a model's own stay what they are.
    """
    if type(cache) is DynamicCache:
        cache.layers = [
            RoomyLayer(layer, limit) if type(layer) is DynamicLayer and layer.is_initialized else layer
            for layer in cache.layers
        ]
    return cache


def keep(cache: Any, rows: list[int]) -> bool:
    """Drop every other row, where each layer can; whether they could."""
    able = type(cache) is DynamicCache and all(type(layer) in SELECTING for layer in cache.layers)
    if able:
        cache.batch_select_indices(torch.tensor(rows, device=cache.layers[0].keys.device))
    return able
