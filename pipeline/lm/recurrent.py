"""Layers that carry a state along a row (scans, linear attention, short convolutions), given each document by itself.

What stands before a document in its row would flow into it. Such a layer therefore meets the documents of a micro-batch
one a row: those of similar lengths together, in as many calls as lengths differ fourfold, whatever kernel it has. All
other layers see the packed row. Shapes: B rows, T positions, D width, N documents of one call, L their longest.
"""

from __future__ import annotations

import inspect
import re
from functools import wraps
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

RECURRENT = {"linear_attention", "conv", "mamba", "hybrid", "mlp", "moe"}  # the last two know no positions
MIXER = re.compile(
    r"(MambaMixer|Mamba2Mixer|BambaMixer|FalconH1Mixer|MambaLayer|ShortConv|GatedDeltaNet|LightningAttention)$"
)
SHIFT = 2  # keeps ids of documents, of which padding's is -1, from reading as a mask of ones


def mixers(model: nn.Module) -> list[nn.Module]:
    """The modules of a model, or those that it would have, that carry a state from position to position."""
    return [module for module in model.modules() if MIXER.search(type(module).__name__)]


def keep_apart(model: nn.Module) -> None:
    """Let every mixer of the model read `as_mask` where it expects a mask of padding."""
    layout = Layout()
    for module in mixers(model):
        module.forward = _by_document(module.forward, layout)


def as_mask(document_ids_BT: Tensor) -> Tensor:
    """What such layers are given in place of a mask of padding: int32 [B, T], which transformers hands on as it is."""
    return (document_ids_BT + SHIFT).to(torch.int32)


class Layout:
    """Where the documents of the rows at hand stand, found once a forward: a GPU is waited for once, not a layer."""

    def __init__(self) -> None:
        self._of, self._groups = lambda: None, []

    def groups(self, ids_BT: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each call (rows_NL, there_NL): positions of the flat rows, the last one again behind an end, and which
        of them are the document's own.
        """
        if self._of() is not ids_BT:
            self._of, self._groups = ref(ids_BT), _groups(ids_BT)
        return self._groups


def _groups(ids_BT: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Each length class has its call, empty ones too (of one position): ZeRO-3's processes must call modules alike."""
    begins_BT = ids_BT.diff(prepend=ids_BT[:, :1] - 1) != 0
    begins_BT[:, 0] = True
    first_N = begins_BT.flatten().nonzero()[:, 0]
    length_N = first_N.diff(append=first_N.new_tensor([ids_BT.numel()]))
    found, over, positions = [], 0, ids_BT.shape[1]
    while over < positions:
        longest = min(4 * over or 16, positions)
        chosen = (length_N > over) & (length_N <= longest)
        first, length = first_N[chosen], length_N[chosen]
        if not len(first):
            first, length = first_N[:1], first_N.new_zeros(1)
        within_L = torch.arange(max(int(length.max()), 1), device=ids_BT.device)
        there = within_L < length[:, None]
        found.append((first[:, None] + within_L.minimum((length[:, None] - 1).clamp(min=0)), there))
        over = longest
    return found


def _by_document(forward: Any, layout: Layout) -> Any:
    """A mixer's forward that runs once for each class of documents, where its mask is `as_mask`."""
    signature = inspect.signature(forward)

    @torch._dynamo.disable
    @wraps(forward)
    def apart(*given: Any, **named: Any) -> Any:
        bound = signature.bind(*given, **named).arguments
        ids_BT = bound.get("attention_mask")
        if ids_BT is None or ids_BT.dtype != torch.int32:
            return forward(*given, **named)
        named = {**bound.pop("kwargs", {}), **bound, "attention_mask": None}
        if ids_BT.is_meta:  # a plan reckons with a document a row
            return forward(**named)
        shape = ids_BT.shape
        whole = None
        for rows_NL, there_NL in layout.groups(ids_BT):
            output = forward(**{name: _taken(value, shape, rows_NL) for name, value in named.items()})
            first, *others = output if isinstance(output, tuple) else (output,)
            if whole is None:
                whole = first.new_zeros(shape.numel(), first.shape[-1])
            whole = whole.index_add(0, rows_NL[there_NL], first[there_NL])
        whole = whole.view(*shape, -1)
        return (whole, *others) if isinstance(output, tuple) else whole

    return apart


def _taken(value: Any, shape: torch.Size, rows_NL: Tensor) -> Any:
    """The entries at those positions of what has one for each position of the rows; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(_taken(part, shape, rows_NL) for part in value)
    if isinstance(value, Tensor) and value.shape[:2] == shape:
        return value.flatten(0, 1)[rows_NL]
    return value
