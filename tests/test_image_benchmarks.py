"""Catches a race of image training whose sides cannot be compared: other precision, other target, nothing learnt."""

from itertools import islice

import pytest
import torch
from torch import nn

from recipes.common.shape import Shape
from recipes.diffusion.config import Unet
from recipes.diffusion.nets import build_net
from tests.benchmarks import image_peers, images


@pytest.mark.parametrize(
    ("mine", "theirs", "compared"),
    [
        ("ours_bf16", "diffusers_bf16", True),
        ("ours_bf16_compiled", "diffusers_bf16", True),
        ("ours_fp32", "diffusers_bf16", False),
        ("ours_bf16", "example_fp32", True),
        ("ours_fp32", "ours_bf16", False),
        ("diffusers_bf16", "ours_bf16", False),
    ],
)
def test_a_ratio_is_of_ours_over_a_peer_in_the_same_precision_where_it_has_it(mine, theirs, compared):
    assert images._compared(mine, theirs) is compared


def tiny_unet() -> nn.Module:
    torch.manual_seed(0)
    settings = Unet(kind="unet", channels=(8, 8), attention_head_dim=8)
    return build_net(settings, Shape(image_size=8, channels=1, classes=0))


@pytest.mark.parametrize("bf16", [False, True])
def test_the_diffusers_loop_begins_at_the_variance_of_noise_and_learns_it(bf16):
    torch.manual_seed(0)
    pictures = torch.rand(64, 1, 8, 8) * 2 - 1
    losses = list(islice(image_peers.diffusers_script(tiny_unet(), pictures, 16, 1e-2, bf16), 60))
    assert losses[0] == pytest.approx(1, abs=0.1)  # the net says 0, and the noise is standard normal
    assert sum(losses[-10:]) / 10 < 0.6


class Perceptron(nn.Module):
    """A net of one argument beside its labels."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(before, 16), nn.ReLU(), nn.Linear(16, after))

    def forward(self, x: torch.Tensor, labels: None) -> torch.Tensor:
        return self.layers(x).squeeze(1)


def test_the_dcgan_loop_trains_both_nets():
    torch.manual_seed(0)
    critic, generator = Perceptron(2, 1), Perceptron(4, 2)
    before = [parameter.clone() for net in (critic, generator) for parameter in net.parameters()]
    losses = list(islice(image_peers.pytorch_dcgan(critic, generator, torch.randn(64, 2), 16, 1e-3, 4), 3))
    after = [parameter for net in (critic, generator) for parameter in net.parameters()]
    assert all(loss > 0 for loss in losses)
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_pictures_a_second_counts_the_steps_of_each_in_turn(monkeypatch):
    monkeypatch.setattr(images, "STEPS", 2)
    monkeypatch.setattr(images, "REPEATS", 3)
    seen = []

    def steps(name: str):
        while True:
            seen.append(name)
            yield 0.0

    contestants = {name: images.Contestant(steps(name), dict) for name in ("a", "b")}
    figures = images.pictures_a_second(contestants)
    assert "".join(seen) == "aabbaabbaabb"
    assert all(len(values) == 3 and min(values) > 0 for values in figures.values())
