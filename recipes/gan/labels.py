"""How labels enter: an embedding beside the latent in the generator, a projection in the critic.

Shapes: B pictures, L latent numbers, F features of the critic.
"""

import math

import torch
from torch import Tensor, nn


class LabelledLatent(nn.Module):
    """(B, L) and labels (B,) -> (B, size): the latent with its class's embedding beside it."""

    def __init__(self, latent_size: int, classes: int):
        super().__init__()
        self.embedding = nn.Embedding(classes, latent_size) if classes else None
        self.latent_size, self.size = latent_size, latent_size * (2 if classes else 1)

    def forward(self, latent_BL: Tensor, labels_B: Tensor) -> Tensor:
        if self.embedding is None:
            return latent_BL
        return torch.cat([latent_BL, self.embedding(labels_B).to(latent_BL.dtype)], dim=1)


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
