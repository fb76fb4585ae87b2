"""Pictures as bytes and as numbers that nets take.

B pictures, H rows, W columns, C channels.
"""

import torch
from torch import Tensor


def to_unit(images_BHWC: Tensor) -> Tensor:
    """uint8 (B, H, W, C) -> fp32 (B, C, H, W) in [-1, 1], channels last in memory."""
    return images_BHWC.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1


def to_pixels(x_BCHW: Tensor) -> Tensor:
    """The inverse of to_unit, clamped and rounded: (B, C, H, W) -> uint8 (B, H, W, C)."""
    pixels = ((x_BCHW.float() + 1) * 127.5).round().clamp(0, 255)
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
