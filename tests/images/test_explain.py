"""Catches directions that are not the ones that matter, and pages of a run that is not there."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from recipes.common.images.shape import Shape
from recipes.common.traversals import STEPS
from recipes.gan import explain as of_gan
from recipes.gan.pairs import build_generator
from recipes.vae import explain as of_vae
from recipes.vae.nets import describe
from tests.images.vae_cases import shaken_net, vae_config
from tests.tiny_gan import image_config, shaken


class Planted:
    """A decoder of four latents, of which number 2 alone moves pixels much, and number 0 a little."""

    latents, top = 4, torch.zeros(1)
    likelihood = SimpleNamespace(mean=lambda numbers: numbers)

    def decode(self, latents_BN, labels_B):
        moved = 20 * latents_BN[:, 2] + 2 * latents_BN[:, 0]
        return (128 + moved)[:, None, None, None].clamp(0, 255).expand(-1, 1, 2, 2)


def test_the_latent_that_moves_pixels_most_stands_first():
    places, moved = of_vae.strongest(Planted(), 0)
    assert places.tolist()[:2] == [2, 0] and moved[0] == pytest.approx(120, abs=1) and moved[2] == 0
    pictures = of_vae.along(Planted(), 0, 2)
    assert np.diff(pictures[:, 0, 0, 0].astype(int)).tolist() == [20] * 6


class Start(nn.Module):
    """A first layer that says much of latent number 3, less of number 1, and hardly anything of the others."""

    latent_size = 6

    def forward(self, latent_BL, labels_B):
        gains = torch.tensor([0.1, 3.0, 0.1, 10.0, 0.1, 0.1])
        return latent_BL * gains


def test_the_principal_directions_are_those_of_the_first_layer():
    directions, shares = of_gan.principal(SimpleNamespace(start=Start()), 0)
    for direction, place in zip(directions[:2], (3, 1), strict=True):
        assert np.abs(direction).argmax() == place and np.abs(direction[place]) == pytest.approx(1, abs=0.05)
        assert np.abs(np.delete(direction, place)).max() < 0.1
    assert shares[0] == pytest.approx(100 / 109, abs=0.02) and shares == sorted(shares, reverse=True)


@pytest.fixture
def runs(tmp_path):
    """A run of each family as its stage `train` leaves it."""
    for family in ("vae", "gan"):
        for stage in ("prepare", "train"):
            (tmp_path / family / stage).mkdir(parents=True)
        write_json(tmp_path / family / "prepare/classes.json", [str(digit) for digit in range(10)])
        (tmp_path / family / "train/artifact.json").touch()
    config = vae_config(f"run.output_dir={tmp_path / 'vae'}", "train.ema_decay=0")
    net = shaken_net(config)
    save_file(
        {n: t.contiguous() for n, t in net.state_dict().items()}, tmp_path / "vae/train/vae.safetensors"
    )
    (tmp_path / "vae/train/nets.json").write_text(json.dumps(describe(config.model, Shape(8, 1, 10))))
    pictures = image_config(f"run.output_dir={tmp_path / 'gan'}", "train.ema_decay=0")
    return config, pictures, tmp_path


def test_a_vae_is_explained_latent_by_latent(runs):
    config, _, directory = runs
    said = of_vae.write_explained(config, "3", directory / "page.html")
    page = (directory / "page.html").read_text()
    rows = page.count("<h2>")
    assert said.endswith("latents") and page.count("<img") == rows * len(STEPS) > 0
    with pytest.raises(UserError, match="is there already"):
        of_vae.write_explained(config, "3", directory / "page.html")
    with pytest.raises(UserError, match="no class '11'\n"):
        of_vae.write_explained(config, "11", directory / "other.html")


def test_a_gan_is_explained_direction_by_direction(runs):
    _, config, directory = runs
    generator = shaken(build_generator(config.model, Shape(8, 1, 10)))
    weights = {name: tensor.contiguous() for name, tensor in generator.state_dict().items()}
    save_file(weights, directory / "gan/train/generator.safetensors")
    description = {"model": config.model.model_dump(mode="json"), "shape": vars(Shape(8, 1, 10))}
    (directory / "gan/train/nets.json").write_text(json.dumps(description))
    said = of_gan.write_explained(config, "", directory / "page.html")
    page = (directory / "page.html").read_text()
    assert "of the variance of the first layer" in said and page.count("<img") == page.count("<h2>") * len(
        STEPS
    )
    first = of_gan.along(generator.eval(), 0, np.zeros(generator.start.latent_size, np.float32))
    assert all(np.array_equal(one, first[0]) for one in first)


def test_a_run_that_is_not_there_yet_is_named(tmp_path):
    config = vae_config(f"run.output_dir={tmp_path}")
    with pytest.raises(UserError, match="is not there yet\nway out: headwater run"):
        of_vae.write_explained(config, "", tmp_path / "page.html")
