"""Catches a net that looks at its batch or fits one size alone, and augmentation that is no function of its index."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.train.loop import Trainer, evaluate, steps
from recipes.common.images.dataset import ImageSplit, PreparedImages
from recipes.common.images.shape import Shape
from recipes.common.scores.classifier import (
    Augmented,
    ConvolutionalNet,
    ImageClassifier,
    classes_of,
    of_learnt_classes,
    shifted,
)
from recipes.common.threads import one_thread
from tests.images.pictures import ALONE, digit_pictures, settings


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


def random_pictures(count: int, side: int = 8, channels: int = 1) -> PreparedImages:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, side, side, channels), np.uint8)
    return PreparedImages(images, np.arange(count) % 3, ("a", "b", "c"))


def recipe_of(train: PreparedImages, held_out: PreparedImages | None = None, augment: bool = False, **given):
    return ImageClassifier(settings(**given), Shape.of(train), train, held_out, augment=augment)


def batch_of(recipe: ImageClassifier, rows: range):
    return recipe.collate([recipe.data().item(row) for row in rows])


@pytest.mark.parametrize("side", [4, 8, 9, 13, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_fits_pictures_of_any_size(side, channels):
    net = ConvolutionalNet(Shape(side, channels, 5), channels=8, features=12)
    x = torch.randn(2, channels, side, side)
    assert net.features(x).shape == (2, 12)
    assert net(x).shape == (2, 5)
    assert max(net.maps(x).shape[2:]) <= 8
    assert torch.equal(net.classes(net.features(x)), net(x))


def test_no_picture_looks_at_those_beside_it():
    net = ConvolutionalNet(Shape(28, 1, 10), channels=8, features=12)
    x = torch.randn(6, 1, 28, 28)
    y = torch.randn(6, 1, 28, 28)
    y[2] = x[2]
    assert torch.equal(net(x)[2], net(y)[2])
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())


def test_the_loss_is_a_sum_that_adds_over_any_cut():
    recipe = recipe_of(random_pictures(12))
    torch.manual_seed(0)
    nets = recipe.nets()
    whole, parts = (
        batch_of(recipe, range(12)),
        [batch_of(recipe, range(0, 5)), batch_of(recipe, range(5, 12))],
    )
    with torch.no_grad():
        losses = [recipe.loss("model", nets, batch, None) for batch in (whole, *parts)]
    assert sum(float(loss.total) for loss in losses[1:]) == pytest.approx(float(losses[0].total), rel=1e-6)
    assert sum(float(loss.parts["right"]) for loss in losses[1:]) == float(losses[0].parts["right"])
    assert [recipe.count("model", batch) for batch in (whole, *parts)] == [12, 5, 7]


def test_it_memorises_a_few_pictures():
    recipe = recipe_of(random_pictures(12), max_steps=40, train_batch_size=12, per_device_train_batch_size=12)
    *_, last = steps(Trainer(recipe, ALONE))
    assert last.sums["model/right"].mean == 1
    assert last.sums["model/loss"].mean < 0.05


@pytest.mark.parametrize("augment", [False, True])
def test_it_learns_the_digits(augment):
    trainer = Trainer(recipe_of(*digit_pictures(), augment=augment, max_steps=200), ALONE)
    for _ in steps(trainer):
        pass
    found = evaluate(trainer, trainer.recipe.held_out())
    assert found["accuracy"].count == 300
    assert found["accuracy"].mean > 0.92  # seen: 0.983, and 0.947 with augmentation
    given = trainer.recipe.held
    right = classes_of(trainer.nets()["model"], given.images) == given.labels
    assert right.mean() == found["accuracy"].mean


def test_an_augmented_picture_is_a_function_of_seed_and_index():
    split = ImageSplit(random_pictures(20), seed=3)
    one, other = Augmented(split, 3, flip=True), Augmented(ImageSplit(random_pictures(20), 3), 3, flip=True)
    forward = [one.item(index) for index in range(60)]
    for index in reversed(range(60)):
        assert np.array_equal(other.item(index)["image"], forward[index]["image"])
        assert other.item(index)["label"] == forward[index]["label"] == split.item(index)["label"]
    assert one.length == 20
    different = [Augmented(split, 4, flip=True).item(index)["image"] for index in range(60)]
    assert any(
        not np.array_equal(item["image"], image) for item, image in zip(forward, different, strict=True)
    )


def test_augmentation_moves_by_every_step_within_reach_and_flips_when_asked():
    split = ImageSplit(random_pictures(5), seed=0)
    plain = {
        tuple(_move(split.item(i)["image"], Augmented(split, 0, False).item(i)["image"])) for i in range(300)
    }
    assert plain == {(down, right, False) for down in (-1, 0, 1) for right in (-1, 0, 1)}
    flips = [_move(split.item(i)["image"], Augmented(split, 0, True).item(i)["image"])[2] for i in range(300)]
    assert np.mean(flips) == pytest.approx(0.5, abs=0.1)


def _move(image: np.ndarray, found: np.ndarray) -> tuple[int, int, bool]:
    """By how much, and whether mirrored, `found` is `image`; compared where no border was filled in."""
    for flipped in (False, True):
        candidate = found[:, ::-1] if flipped else found
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                moved = np.roll(image, (down, right), (0, 1))
                if np.array_equal(moved[1:-1, 1:-1], candidate[1:-1, 1:-1]):
                    return down, right, flipped
    raise AssertionError("neither moved nor mirrored")


def test_a_shift_fills_in_from_the_border():
    image = np.arange(24 * 24, dtype=np.uint8).reshape(24, 24, 1)
    assert np.array_equal(shifted(image, 0.5, 0.5), image)
    moved = shifted(image, 0.0, 0.5)  # by two pixels of 24, downwards
    assert np.array_equal(moved[2:], image[:-2])
    assert np.array_equal(moved[:2], image[:1].repeat(2, axis=0))


def test_a_class_that_was_not_learnt_is_left_out_of_what_is_asked():
    pictures = random_pictures(9)
    train = PreparedImages(pictures.images[:2], pictures.labels[:2], pictures.classes)
    found = of_learnt_classes(pictures, train)
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert np.array_equal(found.images, pictures.images[pictures.labels < 2])
    assert of_learnt_classes(train, pictures) is train
