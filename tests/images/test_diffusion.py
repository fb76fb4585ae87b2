"""Catches a loss that depends on its batch, a picture that depends on its neighbours, a class that is never hidden."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.run.config import load
from pipeline.run.errors import UserError
from pipeline.train.engine import Runtime
from pipeline.train.loop import Trainer, evaluate, steps
from pipeline.train.recipe import Clock
from recipes.common.images.shape import Shape
from recipes.diffusion import stages, train
from recipes.diffusion.config import DiffusionConfig
from recipes.diffusion.diffusion import Diffusion
from recipes.diffusion.nets import attend_plainly, build_net, predict
from recipes.diffusion.objectives import logit_normal
from recipes.diffusion.shapes import check_net, tokens
from tests.helpers import ROOT

ALONE = Runtime(rank=0, world_size=1, device=torch.device("cpu"), zero_stage=None)
DIGITS = ROOT / "recipes" / "diffusion" / "digits.yaml"
UNET = "model.net={kind: unet, channels: [16, 24], attention_head_dim: 8}"
DIT = "model.net={kind: dit, patch_size: 2, hidden_size: 32, num_attention_heads: 2, num_hidden_layers: 2}"
V = ("model.prediction=v", "model.schedule=cosine")
EPSILON = ("model.prediction=epsilon", "model.schedule=linear")
FLOW = ("model.prediction=flow", "model.schedule=null", "train.min_snr_gamma=null", "sampler.name=heun")
PREDICTIONS = [V, EPSILON, (*FLOW, "sampler.others=[]")]
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


def config_of(*overrides: str) -> DiffusionConfig:
    small = ("train.max_steps=3", "train.train_batch_size=8", "train.per_device_train_batch_size=8")
    small += ("train.warmup_steps=0",)
    return load(DiffusionConfig, DIGITS, [*small, *overrides])


def prepared_in(directory: Path, classes: int = 3, channels: int = 1, count: int = 24) -> Path:
    """What the stage `prepare` leaves: blurred noise that differs from class to class."""
    random = np.random.default_rng(0)
    for split in ("train", "held_out"):
        labels = np.arange(count) % max(1, classes)
        coarse = random.integers(0, 200, (count, 4, 4, channels)).repeat(2, axis=1).repeat(2, axis=2)
        images = (coarse + 20 * labels[:, None, None, None]).astype(np.uint8)
        np.save(directory / f"{split}.images.npy", images)
        np.save(directory / f"{split}.labels.npy", labels if classes else np.full(count, -1))
    names = [f"class {label}" for label in range(classes)]
    (directory / "classes.json").write_text(json.dumps(names))
    return directory


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepared_in(tmp_path_factory.mktemp("prepared"))


def batch_of(recipe: Diffusion, count: int, first: int = 0) -> dict[str, torch.Tensor]:
    data = recipe.data()
    return recipe.collate([data.item(index) for index in range(first, first + count)])


def fresh(recipe: Diffusion) -> torch.nn.Module:
    """A net whose output is not 0 everywhere."""
    torch.manual_seed(0)
    net = recipe.nets()["model"]
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net


def test_times_lie_about_the_middle_in_training_alone(prepared):
    """arXiv:2403.03206: logits of times are standard normal. Held-out errors are given by time, so theirs are even."""
    recipe = Diffusion(config_of(*FLOW, "sampler.others=[]", "train.times=logit_normal"), prepared)
    data, held_out = recipe.data(), recipe.held_out()
    times = np.array([float(data.item(index)["u"]) for index in range(2000)])
    logits = np.log(times / (1 - times))
    assert abs(logits.mean()) < 0.02 and abs(logits.std() - 1) < 0.02
    even = np.array([float(held_out.item(index)["u"]) for index in range(2000)])
    np.testing.assert_allclose(np.histogram(even, bins=10, range=(0, 1))[0], 200, atol=3)
    assert 0 < logit_normal(0.0) < 1e-2 and logit_normal(0.5) == 0.5


@pytest.mark.parametrize("net, prediction", [*((UNET, prediction) for prediction in PREDICTIONS), (DIT, V)])
def test_a_tiny_set_is_memorised(tmp_path, net, prediction):
    few = prepared_in(tmp_path, count=2)
    learning = ("train.max_steps=100", "train.learning_rate=5.0e-3", "train.warmup_steps=5")
    trainer = Trainer(Diffusion(config_of(net, *prediction, *learning), few), ALONE)
    errors = [info.sums["model/squared_error"].mean for info in steps(trainer)]
    assert np.mean(errors[-10:]) < 0.5 * np.mean(errors[:5]), errors


@pytest.mark.parametrize("net", [UNET, DIT])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_the_same_however_samples_are_cut(prepared, net, prediction):
    recipe = Diffusion(config_of(net, *prediction), prepared)
    nets = {"model": fresh(recipe)}
    whole = recipe.loss("model", nets, batch_of(recipe, 8), Clock(0, 0)).total
    parts = [
        recipe.loss("model", nets, batch_of(recipe, 2, first), Clock(0, 0)).total for first in (0, 2, 4, 6)
    ]
    assert float(sum(parts).detach()) == pytest.approx(float(whole.detach()), rel=1e-5)
    assert sum(recipe.count("model", batch_of(recipe, 2, first)) for first in (0, 2, 4, 6)) == 8 * 64
    assert recipe.count("model", batch_of(recipe, 8)) == 8 * 64


def test_micro_batches_of_any_size_give_the_same_step(prepared):
    whole, cut = (
        Trainer(Diffusion(config_of(UNET, f"train.per_device_train_batch_size={size}"), prepared), ALONE)
        for size in (8, 2)
    )
    for one, other in zip(steps(whole), steps(cut), strict=True):
        for name, figure in one.sums.items():
            assert other.sums[name].count == figure.count == 8 * 64
            assert other.sums[name].total == pytest.approx(figure.total, rel=1e-4)


def test_held_out_figures_are_the_same_at_any_batch_size(prepared):
    found = []
    for size in (24, 5):
        trainer = Trainer(
            Diffusion(config_of(UNET, f"train.per_device_eval_batch_size={size}"), prepared), ALONE
        )
        found.append(evaluate(trainer, trainer.recipe.held_out()))
    assert found[0].keys() == found[1].keys() == {"loss", "squared_error"}
    for name, figure in found[0].items():
        assert found[1][name].count == figure.count == 24 * 64
        assert found[1][name].total == pytest.approx(figure.total, rel=1e-6)


def test_a_sample_follows_from_its_index_and_no_two_share_noise(prepared):
    recipe = Diffusion(config_of(), prepared)
    one, again = (batch_of(recipe, 50) for _ in range(2))
    for name, values in one.items():
        assert torch.equal(values, again[name])
    assert len(one["noise"].unique(dim=0)) == len(one["u"].unique()) == 50
    held_out = recipe.held_out().item(0)
    assert not (one["noise"] == torch.from_numpy(held_out["noise"])).all(dim=(1, 2, 3)).any()


def test_any_run_of_samples_fills_the_times_evenly(prepared):
    times = batch_of(Diffusion(config_of(), prepared), 40, first=1000)["u"].sort().values
    gaps = times.diff()
    assert float(times[0]) >= 0 and float(times[-1]) < 1
    assert float(gaps.max()) < 2 / 40  # independent draws leave gaps of 4 / 40 and more


def test_classes_are_hidden_at_their_rate_and_never_when_held_out(prepared):
    recipe = Diffusion(config_of("train.condition_dropout=0.25"), prepared)
    batch = batch_of(recipe, 2000)
    hidden = recipe.labels(batch) == 3  # of classes 0, 1, 2
    assert torch.equal(hidden, batch["hidden"])
    assert float(hidden.float().mean()) == pytest.approx(0.25, abs=0.04)  # four standard errors
    assert torch.equal(recipe.labels(batch)[~hidden], batch["label"][~hidden])
    held_out = recipe.held_out()
    assert not any(held_out.item(index)["hidden"] for index in range(24))


@pytest.mark.parametrize("net", [UNET, DIT])
def test_a_hidden_class_makes_no_difference_and_a_seen_one_does(prepared, net):
    recipe = Diffusion(config_of(net), prepared)
    model = fresh(recipe)
    batch = batch_of(recipe, 4)
    for hidden, equal in ((True, True), (False, False)):
        batch["hidden"] = torch.full((4,), hidden)
        errors = [
            recipe.errors(model, batch | {"label": torch.full((4,), label)})[0].detach() for label in (0, 1)
        ]
        assert torch.equal(*errors) == equal


def test_the_dits_own_dropout_of_classes_is_off(prepared):
    recipe = Diffusion(config_of(DIT), prepared)
    model = fresh(recipe).train()
    batch = batch_of(recipe, 8)
    assert torch.equal(*(recipe.errors(model, batch)[0].detach() for _ in range(2)))


@pytest.mark.parametrize("net", [UNET, DIT])
def test_pictures_without_labels_train_a_net_without_classes(tmp_path, net):
    recipe = Diffusion(config_of(net), prepared_in(tmp_path, classes=0, channels=3))
    nets = {"model": fresh(recipe)}
    assert torch.isfinite(recipe.loss("model", nets, batch_of(recipe, 4), Clock(0, 0)).total)
    assert recipe.null_label == (None if net == UNET else 1)
    guided = Diffusion(config_of(net, "sampler.guidance=2"), tmp_path)
    with pytest.raises(UserError, match="no labels"):
        guided.nets()


@pytest.mark.parametrize("size", [28, 14, 12])
def test_a_size_that_halves_evenly_comes_back_whole(tmp_path, size):
    levels = {28: "[8, 8, 8]", 14: "[8, 8]", 12: "[8, 8, 8]"}[size]
    net = config_of(f"model.net={{kind: unet, channels: {levels}, attention_head_dim: 8}}").model.net
    check_net(net, size)
    x = torch.randn(2, 1, size, size)
    said = predict(build_net(net, Shape(size, 1, 3)), x, torch.tensor([0.0, 999.0]), torch.tensor([0, 3]))
    assert said.shape == x.shape


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ((DIT,), 8),
        ((UNET,), 8),
        (("model.net={kind: unet, channels: [8, 8, 8], attention_levels: 2, attention_head_dim: 8}",), 16),
        (("model.net={kind: unet, channels: [8], attention_levels: 1, attention_head_dim: 8}",), 12),
    ],
)
def test_plain_attention_says_what_the_fused_one_says_of_rows_as_long_as_we_say(given, size):
    from diffusers.models.attention_processor import Attention

    config = config_of(*given, f"data.image_size={size}").model.net
    net, seen = build_net(config, Shape(size, 1, 3)), []
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    for module in net.modules():
        if isinstance(module, Attention):
            module.register_forward_hook(
                lambda layer, given, made: seen.append(made.flatten(2).shape[-1 if made.ndim == 4 else 1])
            )
    request = torch.randn(2, 1, size, size), torch.tensor([0.0, 999.0]), torch.tensor([0, 3])
    with torch.no_grad():
        fused = predict(net, *request)
        attend_plainly(net)
        plain = predict(net, *request)
    assert max(seen) == tokens(config, size)
    assert torch.allclose(plain, fused, rtol=1e-4, atol=1e-4 * float(fused.abs().max()))


REFUSED = {
    (
        "data.image_size=30",
        "model.net.channels=[32, 32, 32]",
    ): "multiple of 4, and 30 is not\nway out: 2 levels",
    ("model.net.channels=[30, 64]",): "30 is not a multiple of norm_num_groups = 8",
    ("model.net.attention_head_dim=24",): "attention_head_dim = 24",
    (DIT, "model.net.patch_size=3"): "does not divide data.image_size = 8\nexpected one of: 1, 2, 4, 8",
    (DIT, "model.net.num_attention_heads=3"): "num_attention_heads = 3",
    (*FLOW, "train.min_snr_gamma=5", "sampler.others=[]"): "min_snr_gamma weighs epsilon and v",
    (*V, "train.times=logit_normal"): "train.times = logit_normal is a flow's",
    ("sampler.name=ddim", "sampler.steps=30"): "sampler.steps = 30 does not divide 1000",
    FLOW: "sampler.others.0.name = ddim does not go with model.prediction = flow",
    ("sampler.guidance=2", "train.condition_dropout=0"): "sampler.guidance = 2 needs a net",
    (
        "data.source=folder",
        "data.label_column=null",
        "sampler.guidance=2",
    ): "and data.label_column is null: pictures without labels\nway out: guidance 1",
    ("model.schedule=null",): "prediction: v needs `schedule`",
    ("model.prediction=flow",): "leave `schedule` out",
}


@pytest.mark.parametrize("overrides", REFUSED, ids=lambda overrides: overrides[-1])
def test_what_does_not_fit_is_refused_by_name(overrides):
    with pytest.raises(UserError) as refused:
        train.check(config_of(*overrides))
    assert REFUSED[overrides] in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 5


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "fashion_mnist_dit", "fashion_mnist_gpu"])
def test_every_recipe_of_the_family_can_be_trained(name):
    config = load(DiffusionConfig, DIGITS.with_name(f"{name}.yaml"), [])
    train.check(config)
    assert train.estimate(config).parameters > 100_000


def test_the_package_and_its_stages_are_light_to_import():
    code = (
        "import sys; from recipes.diffusion import evaluate, stages, train\n"
        "print([name for name in ('torch', 'diffusers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_sampler_bears_on_what_is_drawn_and_not_on_what_is_trained():
    one, other = (stages(config_of(*given)) for given in ([], ["sampler.steps=7"]))
    changed = {a.name for a, b in zip(one, other, strict=True) if a.identity != b.identity}
    assert changed == {"evaluate", "sample", "export"}


def test_a_drawing_shows_a_column_of_each_class_and_leaves_the_net_as_it_was(prepared, tmp_path):
    from PIL import Image

    recipe = Diffusion(config_of(UNET, "sampler.steps=3"), prepared)
    net = fresh(recipe)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert recipe.sample({"model": net}, list(range(6)), tmp_path) == {}
    with Image.open(tmp_path / "samples.png") as sheet:
        assert sheet.size == (3 * 9 - 1, 2 * 9 - 1)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_net_in_bf16_is_fed_bf16_and_answers_in_fp32(prepared, dtype):
    recipe = Diffusion(config_of(UNET), prepared)
    net = fresh(recipe).to(dtype)
    errors, weights = recipe.errors(net, batch_of(recipe, 4))
    assert errors.dtype == weights.dtype == torch.float32
    exact = recipe.errors(net.float(), batch_of(recipe, 4))[0]
    torch.testing.assert_close(errors, exact, rtol=0.05, atol=0)  # measured at worst 0.015 in bf16


def test_the_held_out_error_is_split_by_time_and_nothing_is_lost(prepared):
    from recipes.diffusion.evaluate import held_out_errors, held_out_scores

    config = config_of(UNET, "evaluate.time_buckets=4", "train.ema_decay=0")
    recipe = Diffusion(config, prepared)
    net = fresh(recipe)
    whole, *parts = held_out_scores(recipe, net)
    assert (whole.count, sum(part.count for part in parts), len(parts)) == (24, 24, 4)
    assert sum(part.value * part.count for part in parts) == pytest.approx(24 * whole.value)
    assert all(score.interval[0] <= score.value <= score.interval[1] for score in (whole, *parts))
    held_out = recipe.held_out()
    batch = recipe.collate([held_out.item(index) for index in range(24)])
    exact = recipe.errors(net, batch)[0].detach().double() / 64
    assert whole.value == pytest.approx(float(exact.mean()), rel=1e-6)
    few = Diffusion(config_of(UNET, "evaluate.pictures=5", "train.ema_decay=0"), prepared)
    first, _ = held_out_errors(few, net)
    assert len(first) == 5 and first == pytest.approx(exact[:5].numpy(), rel=1e-5)
