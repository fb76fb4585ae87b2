"""Catches a bound that is none, a loss that depends on its neighbours, a sample that does, another export."""

import math

import numpy as np
import pytest
import torch

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.train.engine import Runtime
from pipeline.train.loop import Trainer, evaluate, steps
from recipes.common.images.shape import Shape
from recipes.vae import exported, stages, train
from recipes.vae.bounds import elbo, importance_bound, marginal, value_of
from recipes.vae.drawing import ladder_sampler
from recipes.vae.ladder import Bound, Ladder, Posterior
from recipes.vae.nets import NETS, build, describe
from recipes.vae.sampler import load_samplers
from recipes.vae.vae import Vae, collapse, kl_weight, vae_loss
from tests.images.by_file import by_file
from tests.images.vae_cases import prepared_digits, shaken_net, vae_config

ALONE = Runtime(rank=0, world_size=1, device=torch.device("cpu"), zero_stage=None)
SMALL = (
    "model.hidden_size=8",
    "train.max_steps=3",
    "train.train_batch_size=8",
    "train.warmup_steps=0",
    "train.kl_warmup_steps=0",
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepared_digits(tmp_path_factory.mktemp("prepared"))


def recipe_of(prepared, *overrides: str) -> Vae:
    return Vae(vae_config(*SMALL, *overrides), prepared)


def test_a_tiny_batch_is_memorised(tmp_path):
    """Eight pictures, over and over: their bits fall far below what fresh weights give."""
    directory = prepared_digits(tmp_path, count=11)
    settings = ["train.max_steps=250", "train.train_batch_size=8", "train.per_device_train_batch_size=8"]
    net = ["model.hidden_size=16", "model.groups=[[4,8]]", "train.learning_rate=1e-2"]
    trainer = Trainer(Vae(vae_config(*settings, *net), directory), ALONE)
    bits = [info.sums["vae/bits_per_dim"].mean for info in steps(trainer)]
    assert bits[0] > 6
    assert bits[-1] < 3.0  # measured 2.3


def test_micro_batches_of_any_size_give_the_same_step(prepared):
    free = "train.free_bits=0.5"  # would look at the batch, were it a bound on a mean
    whole, cut = (
        Trainer(recipe_of(prepared, free, f"train.per_device_train_batch_size={micro}"), ALONE)
        for micro in (8, 1)
    )
    for one, other in zip(steps(whole), steps(cut), strict=True):
        for name, figure in one.sums.items():
            assert other.sums[name].count == figure.count == 8
            assert other.sums[name].total == pytest.approx(figure.total, rel=1e-4, abs=1e-4)


def test_the_evaluation_batch_size_changes_nothing(prepared):
    found = []
    for size in (1, 7, 50):
        trainer = Trainer(recipe_of(prepared, f"train.per_device_eval_batch_size={size}"), ALONE)
        found.append(evaluate(trainer, trainer.recipe.held_out()))
    for other in found[1:]:
        for name, figure in found[0].items():
            assert other[name].count == figure.count == 50
            assert other[name].total == pytest.approx(figure.total, rel=1e-5, abs=1e-4)


def test_noise_comes_with_the_sample_and_the_splits_share_none(prepared):
    recipe = recipe_of(prepared)
    again = recipe_of(prepared)
    for index in (0, 5, 1000):
        one, other = recipe.data().item(index), again.data().item(index)
        assert all(np.array_equal(one[name], other[name]) for name in one)
        assert one["noise"].shape == (recipe.latents,) == (8 * 4 + 4 * 16,)
    assert not np.array_equal(recipe.data().item(0)["noise"], recipe.data().item(1)["noise"])
    assert not np.array_equal(recipe.data().item(0)["noise"], recipe.held_out().item(0)["noise"])


def test_free_bits_hold_for_each_picture_and_group_and_beta_grows():
    bound = Bound(torch.tensor([-10.0, -20.0]), torch.tensor([[0.2, 3.0], [2.0, 0.1]]), torch.zeros(2, 2))
    given = vae_config("train.beta=0.5", "train.free_bits=1", "train.kl_warmup_steps=4").train
    assert [kl_weight(given, step) for step in (0, 1, 3, 4, 100)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    assert vae_loss(bound, given, 4).tolist() == [10 + 0.5 * (1 + 3), 20 + 0.5 * (2 + 1)]
    half = vae_config("train.max_steps=100", "train.kl_warmup_steps=0.5").train
    assert kl_weight(half, 49) < 1 == kl_weight(half, 50)


def test_the_kl_is_torchs_and_the_sampled_one_has_it_as_its_mean():
    torch.manual_seed(0)
    mean, log_std = torch.randn(1, 3, 1, 1), torch.randn(1, 3, 1, 1)
    noise = torch.randn(200_000, 3, 1, 1)
    posterior = Posterior(mean, log_std, mean + log_std.exp() * noise)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, log_std.exp()), normal(0.0, 1.0))
    assert torch.allclose(posterior.kl(), expected, rtol=1e-5, atol=1e-6)
    assert torch.allclose(posterior.log_ratio().mean(dim=0, keepdim=True), expected, atol=0.05)
    ratio = normal(mean, log_std.exp()).log_prob(posterior.z) - normal(0.0, 1.0).log_prob(posterior.z)
    assert torch.allclose(posterior.log_ratio()[:100], ratio[:100], atol=2e-4)


class LinearGaussian:
    """x = weight z + std noise, z and noise standard normal; q is off the true posterior by a little.

    The marginal is a normal distribution whose logarithm is known.
    """

    latents, weight, std = 2, torch.tensor([[1.5, 0.3], [-0.4, 0.8], [0.2, 0.2]]), 0.7

    def posterior(self, x_B3: torch.Tensor) -> Posterior:
        precision = torch.eye(2) + self.weight.T @ self.weight / self.std**2
        mean = x_B3 @ self.weight @ torch.linalg.inv(precision) / self.std**2
        return mean + 0.5, (-0.5 * torch.log(precision.diagonal())).expand_as(mean)

    def terms(self, x_B3, noise_BN):
        mean, log_std = self.posterior(x_B3)
        z = mean + log_std.exp() * noise_BN
        law = torch.distributions.Normal(z @ self.weight.T, self.std)
        return law.log_prob(x_B3).sum(dim=1), Posterior(mean, log_std, z)

    def __call__(self, x_B3, labels_B, noise_BN) -> Bound:
        log_prob, posterior = self.terms(x_B3, noise_BN)
        return Bound(log_prob, posterior.kl().sum(dim=1, keepdim=True), torch.zeros(len(x_B3), 1))

    def log_weight(self, x_B3, labels_B, noise_BN):
        log_prob, posterior = self.terms(x_B3, noise_BN)
        return log_prob - posterior.log_ratio().sum(dim=1)

    def log_likelihood(self, x_B3):
        covariance = self.weight @ self.weight.T + self.std**2 * torch.eye(3)
        return torch.distributions.MultivariateNormal(torch.zeros(3), covariance).log_prob(x_B3)


def test_elbo_then_importance_bound_then_log_likelihood_where_it_is_known():
    model, count = LinearGaussian(), 500
    torch.manual_seed(0)
    x = torch.randn(count, 2) @ model.weight.T + model.std * torch.randn(count, 3)
    labels, exact = np.zeros(count, np.int64), model.log_likelihood(x).double().mean().item()
    lower = value_of(elbo(model, x.numpy(), labels, seed=0)).double().mean().item()
    weighted = [importance_bound(model, x.numpy(), labels, k, seed=0).mean().item() for k in (1, 10, 100)]
    assert weighted[0] == pytest.approx(lower, abs=0.35)  # one weight has the ELBO as its mean; 0.17 seen
    assert lower < exact - 0.1  # q is off, and the bound says so
    assert weighted[0] < weighted[1] < weighted[2]
    assert exact - 0.1 < weighted[2] <= exact + 0.01


def test_without_the_class_the_bound_is_the_mean_over_classes():
    net = shaken_net(vae_config(*SMALL))
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    each = [value_of(elbo(net, images, np.full(5, label), 0)).double() for label in (2, 7)]
    expected = torch.stack(each).exp().mean(dim=0).log()
    shifted = torch.logsumexp(torch.stack(each), dim=0) - math.log(2)
    assert torch.equal(marginal(net, images, [2, 7], 0), shifted)
    assert torch.isfinite(expected).logical_not().any() or torch.allclose(expected, shifted)


def test_bounds_do_not_depend_on_the_pictures_beside():
    net = shaken_net(vae_config(*SMALL))
    images = np.random.default_rng(0).integers(0, 256, (230, 8, 8, 1), np.uint8)
    labels = np.arange(230) % 10
    whole = value_of(elbo(net, images, labels, 0))
    part = value_of(elbo(net, images[:30], labels[:30], 0))
    assert torch.allclose(part, whole[:30], rtol=1e-5)


@pytest.mark.parametrize("groups", ["[[1,4]]", "[[2,3],[4,2]]", "[[1,4],[3,2],[4,2],[4,1]]"])
@pytest.mark.parametrize("size,channels,classes", [(8, 1, 10), (28, 1, 0), (64, 3, 4)])
def test_any_ladder_on_any_picture(groups, size, channels, classes):
    config = vae_config(*SMALL, f"model.groups={groups}", "model.patch=2", f"data.image_size={size}")
    net = shaken_net(config, classes=classes, channels=channels)
    images = torch.randint(0, 256, (2, size, size, channels), dtype=torch.uint8)
    labels = torch.tensor([0, 1]) if classes else torch.tensor([-1, -1])
    bound = net(images, labels, torch.randn(2, net.latents))
    assert bound.kl.shape == (2, len(config.model.groups)) and (bound.kl > 0).all()
    assert torch.isfinite(bound.log_prob).all()
    picture = ladder_sampler(net)([3], labels[:1].tolist())
    assert picture.shape == (1, size, size, channels) and picture.dtype == np.uint8


def test_the_class_changes_what_is_decoded_and_labels_may_be_missing():
    labelled, unlabelled = (shaken_net(vae_config(*SMALL), classes=classes) for classes in (10, 0))
    z = torch.randn(1, labelled.latents)
    assert not torch.equal(labelled.decode(z, torch.tensor([1])), labelled.decode(z, torch.tensor([2])))
    assert torch.equal(unlabelled.decode(z, torch.tensor([-1])), unlabelled.decode(z, torch.tensor([2])))


def test_a_fresh_posterior_is_the_prior():
    config = vae_config(*SMALL)
    net = build(config.model, Shape(8, 1, 10))
    images = torch.randint(0, 256, (3, 8, 8, 1), dtype=torch.uint8)
    bound = net(images, torch.tensor([0, 1, 2]), torch.randn(3, net.latents))
    assert torch.equal(bound.kl, torch.zeros(3, 2)) and torch.equal(bound.active, torch.zeros(3, 2))


@pytest.mark.parametrize("drawn_pixels", [False, True])
def test_sample_i_is_sample_i_whatever_the_others_are(drawn_pixels):
    draw = ladder_sampler(shaken_net(vae_config(*SMALL)), drawn_pixels)
    labels = [seed % 10 for seed in range(70)]
    together = draw(list(range(70)), labels)
    assert np.array_equal(draw([41], [1]), together[41:42])
    assert np.array_equal(draw([69, 3, 41], [9, 3, 1]), together[[69, 3, 41]])
    assert len(np.unique(together.reshape(70, -1), axis=0)) == 70


def test_every_draw_has_the_same_number_of_rows_and_each_seed_its_own_latents(monkeypatch):
    """A matrix product's rounding may depend on how many rows it has; on this net's it need not show."""
    net, seen = shaken_net(vae_config(*SMALL)), []
    decode = net.decode
    monkeypatch.setattr(net, "decode", lambda z, labels: seen.append(z) or decode(z, labels))
    draw = ladder_sampler(net)
    draw(list(range(40)), [0] * 40)
    draw([39], [0])
    assert [len(z) for z in seen] == [32, 32, 32]
    assert len(torch.cat(seen[:2])[:40].unique(dim=0)) == 40
    assert torch.equal(seen[2][0], seen[1][39 - 32])


def test_the_exported_directory_draws_what_the_live_model_draws(prepared, tmp_path):
    from safetensors.torch import save_file

    config = vae_config(*SMALL)
    trained, out = tmp_path / "trained", tmp_path / "out"
    trained.mkdir()
    out.mkdir()
    write_json(trained / NETS, describe(config.model, Shape(8, 1, 10)))
    for seed, name in enumerate(("vae", "vae_ema")):
        weights = shaken_net(config, seed).state_dict()
        save_file({key: value for key, value in weights.items()}, trained / f"{name}.safetensors")
    exported.write(config, prepared, trained, out)
    samplers = load_samplers(config, prepared, trained)
    drawn = by_file(out, exported.FILE, [0, 7], [1, 2])
    assert list(samplers) == ["EMA, mean pixels", "EMA, drawn pixels"]
    assert np.array_equal(drawn, samplers["EMA, mean pixels"]([0, 7], [1, 2]))
    assert np.array_equal(drawn, ladder_sampler(shaken_net(config, seed=1))([0, 7], [1, 2]))


def test_a_drawing_during_training_is_a_sheet(prepared, tmp_path):
    recipe = recipe_of(prepared)
    figures = recipe.sample({"vae": shaken_net(recipe.config)}, list(range(20)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]
    assert figures.keys() == {"alarm_group_0_carries_nothing", "alarm_group_1_carries_nothing"}


def test_an_alarm_rings_for_the_group_that_carries_nothing():
    bound = Bound(torch.zeros(2), torch.tensor([[0.01, 5.0], [0.15, 0.0]]), torch.zeros(2, 2))
    assert collapse(bound) == {"alarm_group_0_carries_nothing": 1.0, "alarm_group_1_carries_nothing": 0.0}


@pytest.mark.parametrize(
    "given,message",
    [
        (["model.patch=3"], "model.patch 3 does not divide"),
        (["model.groups=[[1,8],[16,2]]"], "finer than the net's"),
        (["run.launch=launch/zero3.yaml"], "not tested under ZeRO-3"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(given, message, monkeypatch):
    monkeypatch.chdir(vae_root())
    with pytest.raises(UserError, match=message):
        train.check(vae_config(*given))


def vae_root():
    from pathlib import Path

    return Path(__file__).parents[2]


@pytest.mark.parametrize("groups", ["[[4,4],[1,8]]", "[[1,0]]"])
def test_groups_that_are_no_ladder_are_refused(groups):
    with pytest.raises(UserError, match="coarsest"):
        vae_config(f"model.groups={groups}")


def test_uses_are_there_where_their_section_is():
    assert [stage.name for stage in stages(vae_config())][-3:] == ["sheets", "export", "report"]
    both = stages(vae_config("compression.pictures=20", "anomaly.pictures=40", "data.left_out_class='3'"))
    assert [stage.name for stage in both if stage.module.startswith("recipes.vae")] == [
        "train",
        "evaluate",
        "sheets",
        "anomaly",
        "compression",
    ]


def test_the_plan_counts_the_net_without_making_it():
    size = train.estimate(vae_config())
    net = build(vae_config().model, Shape(8, 1, 10))
    assert size.parameters == size.trained == sum(parameter.numel() for parameter in net.parameters())
    assert size.activations > 0 and isinstance(net, Ladder)
