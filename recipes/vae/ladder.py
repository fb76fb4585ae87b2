"""The hierarchical VAE: groups of latents from coarse to fine, inferred top-down (arXiv:1606.04934, arXiv:2011.10650).

Every latent is standard normal given all groups above it. That is no restriction: a Gaussian prior that a net would
predict from the groups above is an affine map of it, which the decoder, that sees the same groups, can apply itself;
the KL divergence does not change under the map. One group is the plain VAE.

B pictures, C channels, S pixels a side, P numbers of the likelihood a pixel and channel, F feature maps, L latent
channels, R resolution of a group, N latents of a picture over all groups.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recipes.common.images.pixels import to_unit
from recipes.vae.blocks import Encoder, Head, in_fp32, pixels_of, residuals, to_resolution
from recipes.vae.config import Model
from recipes.vae.likelihoods import likelihood_of

ACTIVE = 0.01  # nats of KL above which a latent carries something
LOG_STD_RANGE = (-6.0, 1.0)  # of a posterior, in prior standard deviations


class Posterior(NamedTuple):
    """One group of one picture's latents, each (B, L, R, R) fp32: q = Normal(mean, exp(log_std)), z drawn from it."""

    mean: Tensor
    log_std: Tensor
    z: Tensor

    def kl(self) -> Tensor:
        """KL(q || Normal(0, 1)) of each latent, nats."""
        return (self.mean.square() + torch.exp(2 * self.log_std) - 1) / 2 - self.log_std

    def log_ratio(self) -> Tensor:
        """log q(z) - log p(z) of each latent, nats."""
        noise = (self.z - self.mean) * torch.exp(-self.log_std)
        return (self.z.square() - noise.square()) / 2 - self.log_std


class Bound(NamedTuple):
    """The parts of each picture's evidence lower bound, nats; G groups.

    log_prob: of the pixels given the latents (B,); kl: of each group (B, G); active: latents of each group whose KL
    exceeds ACTIVE nats (B, G).
    """

    log_prob: Tensor
    kl: Tensor
    active: Tensor


class Rung(nn.Module):
    """One group: its posterior from the features of both ways, and how its latents enter the decoder."""

    def __init__(self, size: int, channels: int, blocks: int, depth: int):
        super().__init__()
        self.join = nn.Conv2d(2 * size, size, 1)
        self.infer = residuals(1, size, depth)
        self.posterior = nn.Conv2d(size, 2 * channels, 1)
        self.enter = nn.Conv2d(channels, size, 1)
        self.decode = residuals(blocks, size, depth)
        nn.init.zeros_(self.posterior.weight)  # training starts from the prior: no KL, no surprise
        nn.init.zeros_(self.posterior.bias)

    def distribution(self, h_BFRR: Tensor, features_BFRR: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation of the posterior, each (B, L, R, R) fp32."""
        joined = self.infer(self.join(torch.cat([h_BFRR, features_BFRR], dim=1)))
        mean, log_std = in_fp32(self.posterior, joined).chunk(2, dim=1)
        return mean, log_std.clamp(*LOG_STD_RANGE)

    def forward(self, h_BFRR: Tensor, z_BLRR: Tensor) -> Tensor:
        return self.decode(h_BFRR + self.enter(z_BLRR.to(self.enter.weight.dtype)))


class Ladder(nn.Module):
    """Encoder, rungs and head. classes: 0 where there are no labels."""

    def __init__(self, model: Model, image_size: int, channels: int, classes: int):
        super().__init__()
        self.groups, size = model.groups, model.hidden_size
        self.image_size, self.channels = image_size, channels
        self.positions = image_size // model.patch
        resolutions = [resolution for resolution, _ in model.groups]
        depth = max(2, model.blocks * (len(set(resolutions)) + len(resolutions) + 1))
        self.encoder = Encoder(channels, model.patch, size, model.blocks, resolutions, depth)
        self.top = nn.Parameter(torch.zeros(1, size, resolutions[0], resolutions[0]))
        self.classes = nn.Embedding(classes, size) if classes else None
        self.rungs = nn.ModuleList([Rung(size, group[1], model.blocks, depth) for group in model.groups])
        self.last = residuals(model.blocks, size, depth)
        self.likelihood = likelihood_of(model)
        self.head = Head(size, self.likelihood.start, channels, model.patch)

    @property
    def latents(self) -> int:
        """N."""
        return sum(channels * resolution**2 for resolution, channels in self.groups)

    def forward(self, images_BHWC: Tensor, labels_B: Tensor, noise_BN: Tensor) -> Bound:
        """Pictures (uint8), labels and standard normal noise -> the terms of the bound."""
        numbers, posteriors = self.infer(images_BHWC, labels_B, noise_BN)
        kls = [posterior.kl().flatten(1) for posterior in posteriors]
        active = torch.stack([(kl > ACTIVE).sum(dim=1) for kl in kls], dim=1)
        return Bound(
            self.log_prob(numbers, images_BHWC), torch.stack([kl.sum(1) for kl in kls], dim=1), active
        )

    def log_weight(self, images_BHWC: Tensor, labels_B: Tensor, noise_BN: Tensor) -> Tensor:
        """log p(x, z) - log q(z | x) of one draw of the latents, nats (B,): arXiv:1509.00519, equation 8."""
        numbers, posteriors = self.infer(images_BHWC, labels_B, noise_BN)
        ratio = sum(posterior.log_ratio().flatten(1).sum(dim=1) for posterior in posteriors)
        return self.log_prob(numbers, images_BHWC) - ratio

    def log_prob(self, numbers_BPCSS: Tensor, images_BHWC: Tensor) -> Tensor:
        """Of whole pictures, nats (B,)."""
        return self.likelihood.log_prob(numbers_BPCSS, pixels_of(images_BHWC)).flatten(1).sum(dim=1)

    def infer(
        self, images_BHWC: Tensor, labels_B: Tensor, noise_BN: Tensor
    ) -> tuple[Tensor, list[Posterior]]:
        """The likelihood's numbers for latents drawn from the posterior by `noise_BN`, and each group's posterior."""
        features = self.encoder(to_unit(images_BHWC))
        h, found = self.start(labels_B), []
        for rung, resolution, noise in self.walk(noise_BN):
            h = to_resolution(h, resolution)
            mean, log_std = rung.distribution(h, features[resolution])
            found.append(Posterior(mean, log_std, mean + log_std.exp() * noise))
            h = rung(h, found[-1].z)
        return self.finish(h), found

    def decode(self, latents_BN: Tensor, labels_B: Tensor) -> Tensor:
        """Latents of all groups -> the likelihood's numbers (B, P, C, S, S); standard normal ones: a draw."""
        return self.descend(self.start(labels_B), latents_BN)

    def descend(self, h_BFRR: Tensor, latents_BN: Tensor) -> Tensor:
        """The same from what the decoder starts with, which may lie between two classes."""
        for rung, resolution, z in self.walk(latents_BN):
            h_BFRR = rung(to_resolution(h_BFRR, resolution), z)
        return self.finish(h_BFRR)

    def walk(self, latents_BN: Tensor) -> Iterator[tuple[Rung, int, Tensor]]:
        """Each rung with its resolution and its part (B, L, R, R) of numbers for all latents."""
        sizes = [channels * resolution**2 for resolution, channels in self.groups]
        for rung, (resolution, channels), part in zip(
            self.rungs, self.groups, latents_BN.split(sizes, dim=1), strict=True
        ):
            yield rung, resolution, part.unflatten(1, (channels, resolution, resolution))

    def start(self, labels_B: Tensor) -> Tensor:
        """What the decoder knows before any latent: the class, (B, F, R, R)."""
        h = self.top.expand(len(labels_B), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        return h if self.classes is None else h + self.classes(labels_B)[:, :, None, None]

    def finish(self, h_BFRR: Tensor) -> Tensor:
        return self.head(self.last(to_resolution(h_BFRR, self.positions)))
