"""Catches a codebook without a gradient, a straight-through step that is none, codes that are not the nearest."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.train.engine import Runtime
from pipeline.train.loop import Trainer, steps
from recipes.common.images.shape import Shape
from recipes.vae import exported
from recipes.vae.nets import NETS, describe
from recipes.vae.reconstruction import psnr, vq_scores
from recipes.vae.sampler import load_samplers
from recipes.vae.vae import Vae, code_use, vq_figures, vq_loss
from recipes.vae.vq import Quantised, perplexity
from tests.images.by_file import by_file
from tests.images.vae_cases import prepared_digits, shaken_net, vae_config

ALONE = Runtime(rank=0, world_size=1, device=torch.device("cpu"), zero_stage=None)
SMALL = (
    "model.kind=vq",
    "model.groups=[[4,6]]",
    "model.codes=16",
    "model.hidden_size=8",
    "train.warmup_steps=0",
    "train.train_batch_size=8",
)


@pytest.fixture
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8))


def of(net, images):
    return net(images, torch.zeros(len(images), dtype=torch.int64), torch.zeros(len(images), 0))


def test_each_position_gets_the_nearest_code(images):
    net = shaken_net(vae_config(*SMALL))
    encoded = net.encodings(images)
    book = F.normalize(net.codebook, dim=1)
    flat = encoded.permute(0, 2, 3, 1).reshape(-1, 6)
    expected = torch.cdist(flat.double(), book.double()).argmin(dim=1)
    assert torch.equal(net.codes_of(images).flatten(), expected)
    assert torch.allclose(encoded.norm(dim=1), torch.ones(5, 4, 4))
    assert torch.equal(net.vectors(net.codes_of(images))[2, :, 1, 3], book[net.codes_of(images)[2, 1, 3]])


def test_the_terms_are_those_of_the_paper_and_each_moves_its_own_side(images):
    net = shaken_net(vae_config(*SMALL)).requires_grad_(True)
    found = of(net, images)
    distance = (net.encodings(images) - net.vectors(found.codes)).square().flatten(1).sum(dim=1)
    assert torch.allclose(found.codebook, distance) and torch.allclose(found.commitment, distance)
    assert torch.equal(vq_loss(found, 0.25), -found.log_prob + found.codebook + 0.25 * found.commitment)
    moved = {}
    for name in ("log_prob", "codebook", "commitment"):
        net.zero_grad(set_to_none=True)
        getattr(of(net, images), name).sum().backward()
        moved[name] = {key for key, value in net.named_parameters() if value.grad is not None}
    assert moved["codebook"] == {"codebook"}
    assert moved["commitment"] == {key for key in moved["log_prob"] if key.startswith("enco")}
    assert "codebook" not in moved["log_prob"]
    assert {key for key, _ in net.named_parameters()} == moved["log_prob"] | {"codebook"}


def test_the_decoders_gradient_reaches_the_encodings_unchanged(images, monkeypatch):
    net = shaken_net(vae_config(*SMALL)).requires_grad_(True)
    encoded = net.encodings(images).detach().requires_grad_()
    monkeypatch.setattr(net, "encodings", lambda images: encoded)
    of(net, images).log_prob.sum().backward()
    chosen = net.vectors(net.nearest(encoded)).detach().requires_grad_()
    pixels = images.permute(0, 3, 1, 2).float()
    net.likelihood.log_prob(net.decode_vectors(chosen), pixels).sum().backward()
    assert torch.allclose(encoded.grad, chosen.grad, rtol=1e-4, atol=1e-4)


def test_a_tiny_batch_is_memorised_through_its_codes(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = ["train.max_steps=250", "train.per_device_train_batch_size=8", "train.learning_rate=1e-2"]
    config = vae_config(*SMALL, *settings, "model.hidden_size=16", "model.codes=32")
    trainer = Trainer(Vae(config, prepared_digits(tmp_path, count=11)), ALONE)
    bits = [info.sums["vae/reconstruction_bits_per_dim"].mean for info in steps(trainer)]
    torch.set_num_threads(before)
    assert bits[0] > 6
    assert bits[-1] < 3.6  # measured 3.26


def test_perplexity_counts_codes_in_use():
    assert perplexity(torch.tensor([5, 5, 5, 5])) == pytest.approx(4)
    assert perplexity(torch.tensor([20, 0, 0, 0])) == 1
    codes = torch.tensor([[[0, 1], [1, 2]], [[3, 3], [3, 3]]])
    figures = vq_figures(Quantised(torch.zeros(2), torch.zeros(2), torch.zeros(2), codes), 4)
    assert figures["codes_a_picture"].tolist() == [3, 1]
    use = code_use(Quantised(torch.zeros(2), torch.zeros(2), torch.zeros(2), codes), 16)
    assert use == {"codes_used": 4.0, "perplexity": pytest.approx(perplexity(torch.tensor([1, 2, 1, 4])))}


def test_scores_say_what_was_rebuilt_and_how_many_codes_were_used(images):
    net = shaken_net(vae_config(*SMALL))
    scores = {(score.name, score.model): score for score in vq_scores("EMA", net, images.numpy(), 50, 0)}
    counts = torch.bincount(net.codes_of(images).flatten(), minlength=16)
    assert scores["codes used", "EMA"].value == int((counts > 0).sum())
    assert scores["perplexity of the codes", "EMA"].value == pytest.approx(perplexity(counts))
    assert scores["size of the code", "EMA"].value == 16 * math.log2(16) / 64
    assert scores["reconstruction", "the mean picture"].value > 0


def test_psnr_is_that_of_the_textbook():
    one = np.zeros((2, 4, 4, 1), np.uint8)
    other = one.copy()
    other[0] += 10
    assert psnr(one, other)[0] == pytest.approx(20 * math.log10(255 / 10))
    assert psnr(one, other)[1] == pytest.approx(20 * math.log10(255 / 0.5))


def test_the_exported_directory_decodes_the_codes_that_the_live_model_shows(tmp_path):
    from safetensors.torch import save_file

    config = vae_config(*SMALL, "train.ema_decay=0")
    (tmp_path / "prepared").mkdir()
    prepared = prepared_digits(tmp_path / "prepared")
    trained, out = tmp_path / "trained", tmp_path / "out"
    trained.mkdir()
    out.mkdir()
    write_json(trained / NETS, describe(config.model, Shape(8, 1, 10)))
    weights = shaken_net(config).state_dict()
    save_file({key: value for key, value in weights.items()}, trained / "vae.safetensors")
    exported.write(config, prepared, trained, out)
    ((name, live),) = load_samplers(config, prepared, trained).items()
    assert name == "last step, reconstructions"
    seeds = list(range(60))
    assert np.array_equal(by_file(out, exported.FILE, seeds, seeds), live(seeds, seeds))
    assert np.array_equal(live([41], [0]), live(seeds, seeds)[41:42])


def test_a_codebook_of_several_groups_is_refused():
    with pytest.raises(UserError, match="one group"):
        vae_config("model.kind=vq")
