"""Alarms of a game that has gone wrong: modes that are dropped, copies, a critic that teaches nothing any more.

They are cheap, made to be seen while training: they look at pixels, not at features, and compare with what real
pictures give each other at the same number. Scores that can be published are evaluate's.
Shapes: N pictures, B of a batch, H rows, W columns, C channels.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.common.images.pixels import to_unit
from recipes.common.scores.manifold import Distances, manifold
from recipes.gan.losses import generator_loss

SIDE = 14  # pixels a side that are looked at, at most; larger pictures are averaged down
NEIGHBOURS = 5
LEFT = 1 / 4  # recall or coverage below this part of real pictures' own is a drop
NEAR = 1 / 2  # two generated pictures nearer than this part of real ones' median nearest neighbour are copies
COPIES = 1 / 4  # share of copies that rings
ORDERED = 0.9999  # share of (real, generated) pairs that the critic tells apart: no overlap is left
VANISHED = 1e-4  # mean length of the generator's gradient, in scores a unit of a picture


def likeness(real_NHWC: np.ndarray, others_NHWC: np.ndarray, generated_NHWC: np.ndarray) -> dict[str, float]:
    """recall, coverage and duplicates of generated pictures, and the first two of `others`, real ones as well."""
    real, others, generated = (looked_at(pictures) for pictures in (real_NHWC, others_NHWC, generated_NHWC))
    found, alike = (Distances.of(real, one) for one in (generated, others))
    measured, floor = (manifold(one, NEIGHBOURS) for one in (found, alike))
    return {
        "recall": measured.recall,
        "coverage": measured.coverage,
        "duplicates": duplicates(found.real_NN, found.generated_MM),
        "real_recall": floor.recall,
        "real_coverage": floor.coverage,
    }


def looked_at(pictures_NHWC: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C) -> (N, numbers): pixels in [-1, 1], averaged down to SIDE a side."""
    x = to_unit(torch.from_numpy(pictures_NHWC))
    return F.adaptive_avg_pool2d(x, min(SIDE, x.shape[-1])).flatten(1).numpy()


def duplicates(real_NN: Tensor, generated_MM: Tensor) -> float:
    """Share of generated pictures with another one nearer than NEAR of what real ones usually have."""
    usual = _nearest(real_NN).median()
    return float((_nearest(generated_MM) < NEAR * usual).double().mean())


def _nearest(distances_NN: Tensor) -> Tensor:
    """The distance of each row to the nearest other one."""
    return distances_NN.kthvalue(2, dim=1).values


def judgement(
    critic: nn.Module, game: str, real_NHWC: np.ndarray, generated_NHWC: np.ndarray, labels: list[int]
) -> dict[str, float]:
    """How the critic sees the same number of real and generated pictures, a label a pair.

    critic_order: share of (real, generated) pairs that it scores in the right order; generator_gradient: mean length,
    over generated pictures, of the gradient of the generator's loss.
    """
    device = next(critic.parameters()).device
    labels_B = torch.tensor(labels, device=device)
    real, fake = (to_unit(torch.from_numpy(x).to(device)) for x in (real_NHWC, generated_NHWC))
    with torch.enable_grad():
        fake.requires_grad_(True)
        real_score, fake_score = critic(real, labels_B), critic(fake, labels_B)
        loss = generator_loss(game, real_score.detach(), fake_score).sum()
        (gradient,) = torch.autograd.grad(loss, fake)
    right = (real_score.detach()[:, None] > fake_score.detach()[None, :]).double().mean()
    return {
        "critic_order": float(right),
        "generator_gradient": float(gradient.flatten(1).norm(dim=1).mean()),
    }


def rung(figures: dict[str, float]) -> dict[str, float]:
    """`figures`, and beside them each alarm as 0 or 1."""
    alarms = {
        "alarm_recall": figures["recall"] < LEFT * figures["real_recall"],
        "alarm_coverage": figures["coverage"] < LEFT * figures["real_coverage"],
        "alarm_duplicates": figures["duplicates"] > COPIES,
        "alarm_critic": figures["critic_order"] > ORDERED or figures["generator_gradient"] < VANISHED,
    }
    return figures | {name: float(rings) for name, rings in alarms.items()}
