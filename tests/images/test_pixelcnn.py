"""Catches a pixel that sees itself or what comes after, a blind spot, sums that are not one, a cache that errs."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import open_recipe
from recipes.common.alone import run_alone
from recipes.common.images.shape import Shape
from recipes.pixelcnn import exported
from recipes.pixelcnn.config import Model
from recipes.pixelcnn.drawing import coins_of, drawn, sampler_of, to_images
from recipes.pixelcnn.net import PixelNet, initialise
from recipes.pixelcnn.nets import NETS, build, describe, load_net
from recipes.pixelcnn.pixels import LogisticMixture, Softmax
from recipes.pixelcnn.score import marginal_nats_of, nats_of
from recipes.vae.likelihoods import LogisticMixture as OfTheVae
from tests.benchmarks.siblings import drawn_naively
from tests.helpers import ROOT
from tests.images.by_file import by_file

SMALL = {"hidden_size": 8, "blocks": 3, "kernel": 3, "likelihood": "softmax"}
KINDS = {
    "softmax": {},
    "few levels": {"levels": 4},
    "logistics": {"likelihood": "logistic_mixture", "mixtures": 3},
}
PLUS = {"architecture": "plus", "blocks": 1, "resolutions": 2}


def net_of(size=6, channels=1, classes=3, scale=3.0, **fields) -> PixelNet:
    """A net whose weights are large enough that every path through it shows."""
    torch.manual_seed(0)
    net = build(Model(**(SMALL | fields)), Shape(size, channels, classes))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.mul_(1.0 if "classes" in name or "seen" in name else scale)
        for table in getattr(net.likelihood, "seen", {}).values():
            table.weight.normal_()
    return net.eval()


def pictures(count, size=6, channels=1):
    return torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (count, size, size, channels), np.uint8)
    )


NETS_THAT_SEE_ALL = {
    "reach 1": {"kernel": 3, "blocks": 6},
    "reach 2": {"kernel": 5, "blocks": 6},
    "plus": PLUS | {"blocks": 2},
    "plus, three resolutions": PLUS | {"resolutions": 3, "blocks": 3},
}


@pytest.mark.parametrize("kind", NETS_THAT_SEE_ALL)
def test_a_pixel_sees_all_pixels_before_it_and_none_after(kind):
    fields = NETS_THAT_SEE_ALL[kind]
    size, channels = 8 if "architecture" in fields else 5, 2
    net = net_of(size, channels, scale=1.0, **fields).double()
    scaled = torch.rand(1, channels, size, size, dtype=torch.float64, requires_grad=True)
    numbers = net.numbers(scaled, torch.tensor([1]))
    for row, column in itertools.product(range(size), repeat=2):
        [gradient] = torch.autograd.grad(numbers[0, :, row, column].sum(), scaled, retain_graph=True)
        seen = (gradient[0].abs() > 0).flatten(1)
        before = torch.arange(size * size) < row * size + column
        for channel in range(channels):
            assert torch.equal(seen[channel], before), (row, column, channel)


@torch.no_grad()
def test_a_channel_is_given_those_before_it_alone():
    """Of 4 levels: red's and green's shares in the joint probability are what the net says of them without the rest."""
    net = net_of(4, 3, levels=4)
    numbers = torch.randn(1, 12, 1, 1)
    every = torch.cartesian_prod(*[torch.arange(4)] * 3).T[None, :, :, None]
    joint = net.likelihood.log_prob(numbers.expand(1, -1, 64, 1), every).exp().view(4, 4, 4)
    logits = numbers[0, :, 0, 0].view(3, 4)
    torch.testing.assert_close(joint.sum((1, 2)), logits[0].softmax(0))
    green = (logits[1] + net.likelihood.seen["1_0"].weight).softmax(-1)
    torch.testing.assert_close(joint.sum(2), logits[0].softmax(0)[:, None] * green)
    assert float(joint.sum()) == pytest.approx(1, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_all_values_sum_to_one(kind):
    likelihood = net_of(4, 1, **KINDS[kind]).likelihood
    levels = likelihood.levels
    numbers = (3 * torch.randn(5, likelihood.numbers, 1, 1)).expand(-1, -1, levels, 1)
    values = torch.arange(levels).view(1, 1, levels, 1).expand(5, -1, -1, -1)
    totals = likelihood.log_prob(numbers, values).double().exp().sum((1, 2))
    assert totals.tolist() == pytest.approx([1] * 5, abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_channel_by_channel_a_pixel_has_the_probability_that_it_has_at_once(kind, channels):
    """What is drawn and coded by, against what is learnt by."""
    likelihood = net_of(4, channels, **KINDS[kind]).likelihood
    numbers = (2 * torch.randn(6, likelihood.numbers) / 2**-10).round() * 2**-10
    pixels = torch.randint(0, likelihood.levels, (6, channels))
    product = torch.zeros(6, dtype=torch.float64)
    for channel in range(channels):
        shares = likelihood.conditional(numbers, pixels[:, :channel])
        torch.testing.assert_close(shares.sum(-1), torch.ones(6, dtype=torch.float64))
        product += shares[torch.arange(6), pixels[:, channel]].log()
    at_once = likelihood.log_prob(numbers[:, :, None, None], pixels[:, :, None, None])[:, 0, 0]
    torch.testing.assert_close(product.float(), at_once, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_summed_over_blue_logistics_of_three_channels_are_those_of_two():
    three, two = LogisticMixture(3, 3), LogisticMixture(2, 3)
    numbers = 2 * torch.randn(4, three.numbers, 1, 1)
    parts = numbers.unflatten(1, (-1, 3))  # logits; centres, log scales and how means follow, by channel
    own = parts[:, [0, 1, 2, 4, 5, 7]].flatten(1, 2)
    pixels = torch.randint(0, 256, (4, 3, 1, 1)).expand(-1, -1, 256, 1).clone()
    pixels[:, 2, :, 0] = torch.arange(256)
    totals = three.log_prob(numbers.expand(-1, -1, 256, 1), pixels).double().exp().sum((1, 2))
    expected = two.log_prob(own, pixels[:, :2, :1]).double().exp()[:, 0, 0]
    torch.testing.assert_close(totals, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("fields", [{"blocks": 2}, PLUS], ids=["gated", "plus"])
def test_the_likelihood_of_binary_pictures_is_that_of_enumeration(fields):
    """All sixteen of 2 x 2: they sum to one, and each is the product of its pixels' probabilities given the others."""
    net = net_of(2, 1, levels=2, **fields)
    every = torch.tensor(list(itertools.product((0, 255), repeat=4)), dtype=torch.uint8).view(16, 2, 2, 1)
    labels = torch.full((16,), 2)
    with torch.no_grad():
        found = net(every, labels).double()
        assert float(found.exp().sum()) == pytest.approx(1, abs=1e-6)
        assert len(set(found.tolist())) == 16
        for picture, given in zip(every, found, strict=True):
            product, known = 0.0, torch.zeros(1, 1, 2, 2)
            for place in range(4):
                row, column = divmod(place, 2)
                logits = net.numbers(net.likelihood.scaled(known), torch.tensor([2]))[0, :, row, column]
                value = int(picture[row, column, 0]) // 255
                product += float(logits.log_softmax(0)[value])
                known[0, 0, row, column] = value
            assert float(given) == pytest.approx(product, abs=1e-5)


def test_grey_logistics_are_those_of_the_vae():
    ours, theirs = LogisticMixture(1, 4), OfTheVae(4)
    numbers = 3 * torch.randn(2, 12, 5, 5)
    pixels = torch.randint(0, 256, (2, 1, 5, 5))
    expected = theirs.log_prob(numbers[:, :, None], pixels.float())[:, 0]
    torch.testing.assert_close(ours.log_prob(numbers, pixels), expected)


WAYS = {
    "reach 2, grey": (6, 1, 1.5, {"kernel": 5}),
    "reach 1, colours": (6, 3, 1.5, {"kernel": 3}),
    "plus, grey": (8, 1, 2.0, PLUS | {"resolutions": 3}),
    "plus, colours": (6, 3, 2.0, PLUS | {"blocks": 2}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_cached_sampling_is_naive_sampling_bit_for_bit(kind, way):
    size, channels, scale, fields = WAYS[way]
    net = net_of(size, channels, scale=scale, **KINDS[kind], **fields)
    labels, coins = torch.tensor([0, 1, 2, 0]), coins_of(net, [3, 4, 5, 6])
    cached, naive = drawn(net, labels, coins), drawn_naively(net, labels, coins)
    assert torch.equal(cached, naive)
    assert len(torch.unique(cached)) > 2
    assert not torch.equal(cached[0], cached[3])  # another seed of the same class


def test_what_is_drawn_has_the_probabilities_that_the_net_gives():
    """4,000 draws of the first pixel of 4 levels: their shares are within 4 standard errors."""
    net = net_of(2, 1, levels=4, classes=0, blocks=1)
    coins = torch.rand(4000, 2, 2, 1)
    shares = (
        torch.bincount(drawn(net, torch.zeros(4000, dtype=torch.int64), coins)[:, 0, 0, 0], minlength=4)
        / 4000
    )
    with torch.no_grad():
        expected = net.numbers(torch.zeros(1, 1, 2, 2), torch.tensor([0]))[0, :, 0, 0].softmax(0)
    assert ((shares - expected).abs() < 4 * (expected * (1 - expected) / 4000).sqrt() + 1e-9).all()


def test_known_pixels_stay_and_the_rest_is_drawn_given_them():
    net = net_of(6, 1, scale=1.5)
    labels, coins = torch.tensor([1, 1]), coins_of(net, [1, 2])
    given = net.likelihood.quantised(pictures(2)).long()
    found = drawn(net, labels, coins, given, known=15).flatten(1)
    assert torch.equal(found[:, :15], given.flatten(1)[:, :15])
    # Where the whole is known, nothing is drawn; where the picture is its own draw, completing it gives it again.
    assert torch.equal(drawn(net, labels, coins, given, known=36), given)
    own = drawn(net, labels, coins)
    assert torch.equal(drawn(net, labels, coins, own, known=20), own)


def test_the_sampler_gives_pictures_of_the_full_range():
    net = net_of(6, 1, levels=2)
    found = sampler_of(net)([1, 2, 3], [0, 1, 2])
    assert found.shape == (3, 6, 6, 1) and set(np.unique(found)) == {0, 255}
    assert to_images(net_of(6, 1), torch.tensor([[[[0]], [[255]]]])).flatten().tolist() == [0, 255]


def test_every_layer_begins_with_outputs_of_mean_0_and_variance_1():
    torch.manual_seed(0)
    net = build(Model(**SMALL), Shape(6, 1, 3)).eval()
    images, labels = pictures(32), torch.arange(32) % 3
    initialise(net, images, labels)
    seen = {}
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Conv2d) and module is not net.head:
            module.register_forward_hook(lambda module, given, found, name=name: seen.update({name: found}))
    net(images, labels)
    assert len(seen) == 5 * 3  # one of the last layer is not there, and one mixes at the end
    for name, found in seen.items():
        torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(found.shape[1]), atol=1e-4, rtol=0)
        # A feature map that nothing reaches, such as one of dead gates, stays at 0.
        torch.testing.assert_close(
            found.std((0, 2, 3)), torch.ones(found.shape[1]), atol=1e-3, rtol=0, msg=name
        )


@torch.no_grad()
def test_plus_streams_are_apart_at_every_resolution():
    """A pixel of the last row sees the first one through the coarsest level, and a net of one level has none."""
    net = net_of(8, 1, **PLUS)
    assert [level.last for level in net.levels] == [False, True]
    assert not hasattr(net_of(8, 1, **(PLUS | {"resolutions": 1})).levels[0], "narrow_left")
    with pytest.raises(UserError, match="cannot be halved 3 times; way out: model.resolutions=3"):
        pixelcnn_config("model.architecture=plus", "data.image_size=12", "data.on_size=crop", "model.resolutions=4")


def test_a_uniform_net_takes_log2_of_the_levels():
    net = net_of(6, 1, levels=16)
    torch.nn.init.zeros_(net.head.weight)
    torch.nn.init.zeros_(net.head.bias)
    with torch.no_grad():
        nats = -net(pictures(2), torch.tensor([0, 1]))
    assert nats.tolist() == pytest.approx([36 * math.log(16)] * 2)


def test_levels_are_told_apart_evenly():
    likelihood = Softmax(1, 4)
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.bincount(likelihood.quantised(values).flatten()).tolist() == [64] * 4
    assert likelihood.scaled(torch.tensor([0, 3])).tolist() == [-1, 1]


def test_the_probability_of_a_picture_is_the_mean_over_the_classes():
    net, images = net_of(5, 1, scale=1.5), pictures(7, 5).numpy()
    each = torch.stack([torch.from_numpy(-nats_of(net, images, np.full(7, label))) for label in (0, 2)])
    expected = -(each.exp().mean(0)).log()
    np.testing.assert_allclose(marginal_nats_of(net, images, [0, 2]), expected.numpy(), rtol=1e-9)


def test_the_published_file_draws_by_itself_and_refuses_what_it_has_no_class_for(tmp_path):
    """With a net of every kind of pixel: a name that two modules of the bundle share would show here."""
    kinds = KINDS | {"plus": PLUS}
    for place, kind in enumerate(kinds):
        fields = SMALL | kinds[kind]
        config = pixelcnn_config(*(f"model.{key}={value}" for key, value in fields.items()), "train.ema_decay=0")
        trained, out = tmp_path / f"t{place}", tmp_path / f"o{place}"
        trained.mkdir()
        out.mkdir()
        net = net_of(8, classes=10, **kinds[kind])
        write_json(trained / NETS, describe(config.model, Shape(8, 1, 10)))
        save_file(net.state_dict(), trained / "pixelcnn.safetensors")
        exported.write(config, Path(), trained, out)
        live = sampler_of(load_net(trained, "pixelcnn.safetensors"))([5, 6, 7], [0, 3, 9])
        assert np.array_equal(by_file(out, exported.FILE, [5, 6, 7], [0, 3, 9]), live), kind
    write_json(out / "pictures.json", {"classes": ["a", "b"]})
    with pytest.raises(RuntimeError, match="a label is one of 0 to 1: a, b"):
        run_alone(out, exported.FILE, "x.png", "--seeds", "1", "--labels", "2")
    with pytest.raises(RuntimeError, match="2 seeds and 1 labels: as many of both"):
        run_alone(out, exported.FILE, "x.png", "--seeds", "1", "2", "--labels", "1")


def pixelcnn_config(*overrides: str):
    return open_recipe(ROOT / "recipes/pixelcnn/digits.yaml", list(overrides))[0]
