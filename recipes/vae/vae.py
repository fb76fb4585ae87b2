"""The VAE and the VQ-VAE as a recipe: one turn, whose loss is a sum over pictures in nats.

B pictures, G groups of latents.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.run.plan import steps_of
from pipeline.train.recipe import Batch, Clock, Loss, Sum
from recipes.common import noise
from recipes.common.images.dataset import ImageSplit, PreparedImages
from recipes.common.images.picture_net import PictureNet
from recipes.common.images.sheet import save_sheet
from recipes.common.sample import columns_of, labels_in_turn
from recipes.vae.config import ZERO_STAGES, Train
from recipes.vae.ladder import Bound
from recipes.vae.nets import build, describe
from recipes.vae.vq import Quantised, perplexity

WATCHED = 256  # held-out pictures on which the use of latents and codes is watched while training
COLLAPSED = 0.1  # nats a picture below which a group of latents carries nothing


@dataclass(frozen=True)
class NoisyImages:
    """Pictures, each with the noise that draws its latents from their posterior, both a function of the index."""

    images: ImageSplit
    latents: int
    seed: int
    purpose: str

    @property
    def length(self) -> int:
        return self.images.length

    def item(self, index: int) -> dict[str, np.ndarray]:
        """`image` uint8 (H, W, C), `label` int64 (), `noise` fp32 (latents,)."""
        return self.images.item(index) | {
            "noise": noise.normal(self.seed, self.purpose, index, (self.latents,))
        }


class Vae(PictureNet):
    """Implements pipeline.train.recipe.Recipe."""

    turns = ("vae",)
    ema = ("vae",)
    zero_stages = ZERO_STAGES

    def blank(self, count: int) -> Batch:
        return super().blank(count) | {"noise": torch.zeros(count, self.latents)}

    @property
    def latents(self) -> int:
        """Numbers of noise that a picture needs."""
        groups = self.config.model.groups if self.config.model.kind == "vae" else ()
        return sum(channels * resolution**2 for resolution, channels in groups)

    def data(self) -> NoisyImages:
        return NoisyImages(super().data(), self.latents, self.training.seed, "train")

    def held_out(self) -> NoisyImages:
        return NoisyImages(super().held_out(), self.latents, self.training.seed, "held_out")

    def nets(self) -> dict[str, nn.Module]:
        net = build(self.config.model, self.shape)
        if self.training.torch_compile:
            net.compile()
        return {"vae": net}

    def described(self) -> dict[str, Any]:
        return describe(self.config.model, self.shape)

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        found = nets["vae"](batch["image"], batch["label"], batch["noise"])
        total = (
            vq_loss(found, self.config.model.commitment).sum()
            if isinstance(found, Quantised)
            else vae_loss(found, self.training, clock.step).sum()
        )
        return Loss(
            total, {name: value.detach().sum() for name, value in self._figures(found, batch).items()}
        )

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        found = nets["vae"](batch["image"], batch["label"], batch["noise"])
        figures = self._figures(found, batch)
        return {name: Sum(float(value.sum()), len(batch["image"])) for name, value in figures.items()}

    def _figures(self, found: Bound | Quantised, batch: Batch) -> dict[str, Tensor]:
        """What the log says of each picture, each (B,)."""
        dimensions = batch["image"][0].numel()
        return (
            vq_figures(found, dimensions) if isinstance(found, Quantised) else vae_figures(found, dimensions)
        )

    @torch.no_grad()
    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """`out/samples.png`: sample i of seeds[i] and label i modulo the classes; of a VQ-VAE, reconstructions.

        The figures are of the first held-out pictures: codes in use, or an alarm for each group that carries nothing.
        """
        from recipes.vae.sampler import sampler_of

        held_out = PreparedImages.open(self.prepared, "held_out")
        classes = len(held_out.classes)
        pictures = sampler_of(nets["vae"], held_out)(seeds, labels_in_turn(len(seeds), classes))
        save_sheet(pictures, out / "samples.png", columns_of(classes))
        return self._use_of(nets["vae"])

    def _use_of(self, net: nn.Module) -> dict[str, float]:
        split = self.held_out()
        batch = self.collate([split.item(index) for index in range(min(WATCHED, split.length))])
        device = next(net.parameters()).device
        found = net(*[batch[name].to(device) for name in ("image", "label", "noise")])
        return code_use(found, self.config.model.codes) if isinstance(found, Quantised) else collapse(found)


def kl_weight(train: Train, step: int) -> float:
    """beta, grown linearly over the first `kl_warmup_steps` updates."""
    warmup = steps_of(train.kl_warmup_steps, train.max_steps)
    return train.beta * min(1.0, (step + 1) / (warmup + 1))


def vae_loss(bound: Bound, train: Train, step: int) -> Tensor:
    """Minus the weighted bound of each picture, nats (B,).

    Free bits hold for each picture, not for the mean over a mini-batch (arXiv:1606.04934, equation 15): a mean would
    make a picture's loss depend on its neighbours.
    """
    charged = bound.kl.clamp(min=train.free_bits).sum(dim=1)
    return -bound.log_prob + kl_weight(train, step) * charged


def vq_loss(found: Quantised, commitment: float) -> Tensor:
    """arXiv:1711.00937, equation 3, of each picture (B,)."""
    return -found.log_prob + found.codebook + commitment * found.commitment


def vae_figures(bound: Bound, dimensions: int) -> dict[str, Tensor]:
    """The unweighted bound in nats a picture and bits a dimension, and where a posterior has collapsed: each (B,)."""
    kl = bound.kl.sum(dim=1)
    figures = {"negative_elbo": kl - bound.log_prob, "reconstruction": -bound.log_prob, "kl": kl}
    figures["bits_per_dim"] = figures["negative_elbo"] / (dimensions * math.log(2))
    for group in range(bound.kl.shape[1]):
        figures[f"kl_group_{group}"] = bound.kl[:, group]
        figures[f"active_units_group_{group}"] = bound.active[:, group].float()
    return figures


def collapse(bound: Bound) -> dict[str, float]:
    """An alarm a group: 1 where its mean KL is next to nothing."""
    means = bound.kl.float().mean(dim=0).tolist()
    return {f"alarm_group_{group}_carries_nothing": float(kl < COLLAPSED) for group, kl in enumerate(means)}


def code_use(found: Quantised, codes: int) -> dict[str, float]:
    """Codes chosen at least once, and their perplexity."""
    counts = torch.bincount(found.codes.flatten(), minlength=codes)
    return {"codes_used": float((counts > 0).sum()), "perplexity": perplexity(counts)}


def vq_figures(found: Quantised, dimensions: int) -> dict[str, Tensor]:
    """Reconstruction in nats and bits, distance to the codes, and how many codes a picture uses: each (B,)."""
    figures = {"reconstruction": -found.log_prob, "distance_to_codes": found.commitment}
    figures["reconstruction_bits_per_dim"] = -found.log_prob / (dimensions * math.log(2))
    ordered = found.codes.flatten(1).sort(dim=1).values
    figures["codes_a_picture"] = 1.0 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1).float()
    return figures
