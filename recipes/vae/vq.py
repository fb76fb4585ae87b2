"""The VQ-VAE: a grid of codes in place of Gaussian latents (arXiv:1711.00937). It has no prior of its own.

B pictures, C channels, S pixels a side, F feature maps, R resolution of the grid, D numbers of a code, K codes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.common.images.pixels import to_unit
from recipes.vae.blocks import Encoder, Head, in_fp32, pixels_of, residuals, to_resolution
from recipes.vae.config import Model
from recipes.vae.likelihoods import likelihood_of


class Quantised(NamedTuple):
    """The terms of each picture's loss (arXiv:1711.00937, equation 3).

    log_prob: of the pixels given the codes, nats (B,); codebook: squared distance that moves codes to encodings (B,);
    commitment: the same distance, which moves encodings to codes (B,); codes: which were chosen, int64 (B, R, R).
    """

    log_prob: Tensor
    codebook: Tensor
    commitment: Tensor
    codes: Tensor


class VectorQuantised(nn.Module):
    """Encoder, codebook and decoder. Codes and encodings lie on the unit sphere, where no code is out of reach.

    Codes of any length start far from what an untrained encoder gives, and most are never chosen; on the sphere
    (arXiv:2110.04627, section 3.2) all are in use without statistics of a batch.
    """

    latents = 0  # numbers of noise that a picture needs

    def __init__(self, model: Model, image_size: int, channels: int):
        super().__init__()
        ((self.resolution, width),) = model.groups
        size, self.positions = model.hidden_size, image_size // model.patch
        depth = max(2, 3 * model.blocks)
        self.encoder = Encoder(channels, model.patch, size, model.blocks, [self.resolution], depth)
        self.encode = nn.Conv2d(size, width, 1)
        self.codebook = nn.Parameter(torch.randn(model.codes, width))
        self.enter = nn.Conv2d(width, size, 1)
        self.decoder = residuals(model.blocks, size, depth)
        self.last = residuals(model.blocks, size, depth)
        self.likelihood = likelihood_of(model)
        self.head = Head(size, self.likelihood.start, channels, model.patch)

    def forward(self, images_BHWC: Tensor, labels_B: Tensor, noise_BN: Tensor) -> Quantised:
        """Pictures (uint8) -> the terms of the loss; labels and noise are not used."""
        encoded = self.encodings(images_BHWC)
        codes = self.nearest(encoded)
        chosen = self.vectors(codes)
        # Straight-through: the decoder's gradient passes to the encodings as if they were the codes.
        numbers = self.decode_vectors(encoded + (chosen - encoded).detach())
        log_prob = self.likelihood.log_prob(numbers, pixels_of(images_BHWC)).flatten(1).sum(dim=1)
        codebook = (chosen - encoded.detach()).square().flatten(1).sum(dim=1)
        commitment = (encoded - chosen.detach()).square().flatten(1).sum(dim=1)
        return Quantised(log_prob, codebook, commitment, codes)

    def codes_of(self, images_BHWC: Tensor) -> Tensor:
        """The codes of pictures, int64 (B, R, R)."""
        return self.nearest(self.encodings(images_BHWC))

    def decode(self, codes_BRR: Tensor) -> Tensor:
        """Codes -> the likelihood's numbers (B, P, C, S, S)."""
        return self.decode_vectors(self.vectors(codes_BRR))

    def encodings(self, images_BHWC: Tensor) -> Tensor:
        """On the unit sphere, fp32 (B, D, R, R)."""
        features = self.encoder(to_unit(images_BHWC))[self.resolution]
        return F.normalize(in_fp32(self.encode, features), dim=1)

    def nearest(self, encoded_BDRR: Tensor) -> Tensor:
        """On the sphere the nearest code is the one with the largest product."""
        book_KD = F.normalize(self.codebook.float(), dim=1)
        return torch.einsum("bdij,kd->bkij", encoded_BDRR.detach(), book_KD.detach()).argmax(dim=1)

    def vectors(self, codes_BRR: Tensor) -> Tensor:
        """The codebook's entries on the sphere, fp32 (B, D, R, R)."""
        return F.embedding(codes_BRR, F.normalize(self.codebook.float(), dim=1)).permute(0, 3, 1, 2)

    def decode_vectors(self, z_BDRR: Tensor) -> Tensor:
        h = self.decoder(self.enter(z_BDRR.to(self.enter.weight.dtype)))
        return self.head(self.last(to_resolution(h, self.positions)))


def perplexity(counts_K: Tensor) -> float:
    """exp of the entropy of how often each code is chosen: codes in effective use, 1 to K."""
    share = counts_K.double() / counts_K.sum()
    return float(torch.exp(torch.special.entr(share).sum()))
