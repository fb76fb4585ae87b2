"""Where labels enter: at the start of a generator, beside the latent, and at the end of a critic, as a projection.

Shapes: B pictures, L latent numbers, M maps, F features of the critic.
"""

import math

import torch
from torch import Tensor, nn


class Start(nn.Module):
    """(B, L) and labels (B,) -> the coarsest maps (B, M, base, base): one linear layer of the latent and its class.

    At first every place of a map is the same, so that the first pictures are smooth: a layer that is random from place
    to place starts from noise to the pixel, which takes long to unlearn.
    """

    def __init__(self, latent_size: int, classes: int, maps: int, base: int, gain: float):
        super().__init__()
        self.embedding = nn.Embedding(classes, latent_size) if classes else None
        self.latent_size, self.maps, self.base = latent_size, maps, base
        inputs = latent_size * (2 if classes else 1)
        self.linear = nn.Linear(inputs, maps * base * base)
        with torch.no_grad():
            level = torch.randn(maps, 1, inputs) * (gain / math.sqrt(inputs))
            self.linear.weight.copy_(level.expand(maps, base * base, inputs).flatten(0, 1))
            self.linear.bias.zero_()

    def forward(self, latent_BL: Tensor, labels_B: Tensor) -> Tensor:
        latent = latent_BL.to(self.linear.weight.dtype)
        if self.embedding is not None:
            latent = torch.cat([latent, self.embedding(labels_B).to(latent.dtype)], dim=1)
        x_BMHW = self.linear(latent).unflatten(1, (self.maps, self.base, self.base))
        return x_BMHW.contiguous(memory_format=torch.channels_last)


class Projection(nn.Module):
    """The critic's last layer: v . h + e_y . h / sqrt(F), arXiv:1802.05637, Equation 3; v alone without classes."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.embedding = nn.Embedding(classes, features) if classes else None

    def forward(self, h_BF: Tensor, labels_B: Tensor) -> Tensor:
        """Scores (B,), fp32: the penalty takes differences of them."""
        score_B = self.linear(h_BF).squeeze(1).float()
        if self.embedding is None:
            return score_B
        agreement_B = (self.embedding(labels_B).float() * h_BF.float()).sum(1)
        return score_B + agreement_B / math.sqrt(h_BF.shape[1])
