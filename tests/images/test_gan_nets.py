"""Catches a net that looks at its batch, does not fit its pictures, starts too loud or too faint, or drops labels."""

import json

import pytest
import torch

from recipes.common.images.shape import Shape
from recipes.gan.config import Convolutions
from recipes.gan.dcgan import FAINT
from recipes.gan.pairs import build_critic, build_generator, describe, described
from recipes.gan.sizes import halvings_of, sizes
from tests.tiny_gan import shaken

PAIRS = ("dcgan", "residual")


def model(**given):
    return Convolutions(**{"pair": "dcgan", "latent_size": 4, "channels": 8} | given)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("shape", [Shape(8, 1, 10), Shape(28, 1, 0), Shape(20, 3, 2), Shape(64, 3, 10)])
def test_both_nets_fit_every_size(pair, shape):
    chosen = model(pair=pair, max_channels=16)
    labels = torch.tensor([0, 1, 0]) if shape.classes else None
    pictures = build_generator(chosen, shape)(torch.randn(3, 4), labels)
    assert pictures.shape == (3, shape.channels, shape.image_size, shape.image_size)
    scores = build_critic(chosen, shape)(pictures, labels)
    assert scores.shape == (3,) and scores.isfinite().all()


def test_sizes_halve_down_to_four_to_seven():
    assert sizes() == [8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64]
    assert [size >> halvings_of(size) for size in sizes()] == [4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("image_size", [8, 32])
def test_pictures_and_scores_keep_their_size_through_a_fresh_net(pair, image_size):
    torch.manual_seed(0)
    shape, chosen = Shape(image_size, 3, 0), model(pair=pair, channels=16, latent_size=16)
    pictures = build_generator(chosen, shape)(torch.randn(200, 16), None)
    blots = torch.nn.functional.interpolate(
        torch.randn(200, 3, 4, 4), image_size
    )  # noise would be averaged away
    scores = build_critic(chosen, shape)(blots, None)
    faint = FAINT if pair == "dcgan" else 1
    assert 0.2 * faint < pictures.std() < 2 * faint and 0.1 < scores.std() < 3


@pytest.mark.parametrize("pair", PAIRS)
def test_the_first_maps_are_the_same_at_every_place_and_learn_place_by_place(pair):
    torch.manual_seed(0)
    start = build_generator(model(pair=pair), Shape(8, 1, 10)).start
    maps = start(torch.randn(200, 4), torch.arange(200) % 10)
    assert torch.allclose(maps, maps[..., :1, :1].expand_as(maps), atol=1e-6)
    assert 0.5 < maps.std() < 2 and not torch.allclose(maps[0], maps[1], atol=0.1)
    maps[:, :, 2, 3].sum().backward()
    assert start.linear.weight.grad.unflatten(0, (-1, 4, 4)).abs().sum(dim=(0, 3)).nonzero().tolist() == [
        [2, 3]
    ]


@pytest.mark.parametrize(("pair", "norm"), [("dcgan", False), ("dcgan", True), ("residual", False)])
def test_nothing_looks_at_its_batch(pair, norm):
    torch.manual_seed(0)
    chosen, shape = model(pair=pair, spectral_norm=norm), Shape(16, 3, 10)
    critic, generator = shaken(build_critic(chosen, shape)), shaken(build_generator(chosen, shape))
    x, z, labels = torch.randn(6, 3, 16, 16), torch.randn(6, 4), torch.arange(6)
    for net, batch in ((critic, x), (generator, z)):
        together = net(batch, labels)
        for place in range(6):
            alone = net(batch[place : place + 1], labels[place : place + 1])
            assert torch.allclose(alone[0], together[place], atol=1e-5)
        assert not list(net.named_buffers())


@pytest.mark.parametrize("pair", PAIRS)
def test_labels_change_what_both_nets_do_and_gradients_reach_their_embeddings(pair):
    torch.manual_seed(0)
    chosen, shape = model(pair=pair), Shape(8, 1, 10)
    for net, batch in (
        (build_critic(chosen, shape), torch.randn(1, 1, 8, 8)),
        (shaken(build_generator(chosen, shape)), torch.randn(1, 4)),
    ):
        one, other = (net(batch, torch.tensor([label])) for label in (3, 7))
        assert not torch.allclose(one, other)
        one.sum().backward()
        embedding = (net.head if hasattr(net, "head") else net.start).embedding
        assert embedding.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [3]


def test_the_nets_are_described_whole():
    chosen, shape = model(pair="residual", blocks=2, spectral_norm=False), Shape(28, 3, 7)
    assert described(json.loads(json.dumps(describe(chosen, shape)))) == (chosen, shape)
