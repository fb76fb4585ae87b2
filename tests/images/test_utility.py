"""Catches worthless pictures that seem useful, a baseline that saw other data, a model without classes not refused."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.run.config import Run, Section
from pipeline.run.errors import UserError
from pipeline.run.results import Score
from pipeline.run.stage import Context, Stage
from recipes.common.images.config import Classifier, Images, Utility
from recipes.common.scores import utility
from recipes.common.threads import one_thread
from tests.images.pictures import digit_pictures, settings, write_prepared

ACCURACY, GAIN = "accuracy after training on these pictures", "accuracy gained over real pictures alone"
LEAK = "synthetic pictures that are held out"
DIETS = ("real", "real, classes made even", "real, augmented", "synthetic", "real and synthetic")


class Model(Section):
    """Of a family that can do without labels."""

    conditional: bool = True


class Config(Section):
    """The sections that the stage reads."""

    run: Run
    data: Images
    model: Model
    features: Classifier | None
    utility: Utility


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


def config_of(tmp_path, **given) -> Config:
    data = Images(**{"source": "digits", "image_size": 8, "channels": 1} | given)
    use = Utility(seeds=2, samples=200, real=100, max_steps=40)
    return Config(run=Run(output_dir=tmp_path), data=data, model=Model(), features=settings(), utility=use)


def run_stage(tmp_path, monkeypatch, sampler, pictures=None, **changes):
    """evaluation.json and the metrics of the stage for a family whose first sampler is `sampler`."""
    prepared = write_prepared(tmp_path / "prepare", *(pictures or digit_pictures()))
    family = SimpleNamespace(
        load_samplers=lambda *given: {"first": sampler, "second": None} if sampler else {}
    )
    monkeypatch.setattr(utility, "family_module", lambda config, name: family)
    config = config_of(tmp_path)
    config = config.model_copy(update={"utility": config.utility.model_copy(update=changes)})
    stage = Stage("utility", "recipes.common.scores.utility", {}, ("prepare", "train"))
    inputs = {"prepare": prepared, "train": tmp_path}
    utility.check(config)
    metrics = utility.run(Context(config, stage, inputs, tmp_path, tmp_path, tmp_path, io.StringIO()))
    return json.loads((tmp_path / "evaluation.json").read_text()), metrics


def real_pictures(seeds, labels):
    """Training pictures that are not among the first hundred."""
    train, _ = digit_pictures()
    rows = [np.flatnonzero(train.labels[300:] == label) + 300 for label in range(10)]
    return train.images[
        [rows[label][seed % len(rows[label])] for seed, label in zip(seeds, labels, strict=True)]
    ]


def noise(seeds, labels):
    return np.random.default_rng(seeds).integers(0, 256, (len(seeds), 8, 8, 1), np.uint8)


def values(found) -> dict[tuple[str, str], float]:
    return {(one["name"], one["model"]): one["value"] for one in found["scores"]}


def test_real_pictures_are_useful_and_noise_is_not(tmp_path, monkeypatch):
    good, metrics = run_stage(tmp_path / "good", monkeypatch, real_pictures)
    bad, _ = run_stage(tmp_path / "bad", monkeypatch, noise)
    useful, useless = values(good), values(bad)
    for name in ("real", "real, augmented"):
        assert useful[ACCURACY, name] == useless[ACCURACY, name] > 0.5
    assert useful[GAIN, "synthetic"] > 0 and useful[GAIN, "real and synthetic"] > 0
    assert useless[ACCURACY, "synthetic"] < 0.3
    assert useless[GAIN, "real and synthetic"] < useful[GAIN, "real and synthetic"]
    assert metrics == {Score(**score).key: score["value"] for score in good["scores"]}
    assert good["missing"] == {}


def test_scores_say_what_they_are(tmp_path, monkeypatch):
    found, _ = run_stage(tmp_path, monkeypatch, real_pictures, seeds=1)
    assert [(one["name"], one["model"]) for one in found["scores"]] == [
        *((ACCURACY, name) for name in DIETS),
        *((GAIN, name) for name in DIETS[1:]),
        (LEAK, "synthetic"),
    ]
    leak = found["scores"].pop()
    assert (leak["value"], leak["count"], leak["better"]) == (0.0, 200, "lower")
    table = values(found)
    for one in found["scores"]:
        low, high = one["interval"]
        assert low <= one["value"] <= high
        assert one["count"] == 300 and one["better"] == "higher"
        assert "1 seeds, 300 held-out pictures; synthetic: first, 200 pictures; real: 100" in one["protocol"]
        if one["name"] == GAIN:
            gained = table[ACCURACY, one["model"]] - table[ACCURACY, "real"]
            assert one["value"] == pytest.approx(gained, abs=1e-12)
    assert found["missing"] == {"spread over seeds": "utility.seeds is 1"}


def test_pictures_are_drawn_with_the_labels_of_the_real_ones(tmp_path):
    real = utility.first(digit_pictures()[0], 7)
    asked = []

    def sampler(seeds, labels):
        asked.extend(zip(seeds, labels, strict=True))
        return noise(seeds, labels)

    drawn = utility.draw(sampler, real, 20)
    expected = [real.labels[place % 7] for place in range(20)]
    assert asked == list(enumerate(expected))
    assert drawn.labels.tolist() == expected and drawn.images.shape == (20, 8, 8, 1)
    given = utility.diets(real, drawn)
    most = max(np.bincount(real.labels))
    even = most * len(set(real.labels.tolist()))
    assert [len(diet.images.labels) for diet in given.values()] == [7, even, 7, 20, 27]
    assert [diet.augment for diet in given.values()] == [False, False, True, False, False]
    assert set(np.bincount(given[DIETS[1]].images.labels)) <= {0, most}


def test_seeds_differ_and_the_same_seed_does_not():
    train, held_out = digit_pictures()
    diet = utility.Diet(utility.first(train, 100))
    first, again, other = (
        utility.trained_classes(settings(max_steps=15, seed=seed), diet, held_out, flip=False)
        for seed in (0, 0, 1)
    )
    assert (first == again).all() and (first != other).any()


def test_every_diet_is_given_to_the_same_seeds(tmp_path, monkeypatch):
    asked = []

    def perfect(training, diet, held_out, flip):
        asked.append((training.seed, training.max_steps, flip))
        return held_out.labels

    monkeypatch.setattr(utility, "trained_classes", perfect)
    found, _ = run_stage(tmp_path, monkeypatch, noise, seeds=3, max_steps=7, flip=True)
    assert asked == 5 * [(0, 7, True), (1, 7, True), (2, 7, True)]
    assert set(values(found).values()) == {0.0, 1.0}


def test_a_model_that_knows_the_held_out_pictures_is_told(tmp_path, monkeypatch):
    """The leak check must be able to fail."""
    _, held_out = digit_pictures()
    found, _ = run_stage(
        tmp_path, monkeypatch, lambda seeds, labels: held_out.images[: len(seeds)], seeds=1, max_steps=5
    )
    assert values(found)[LEAK, "synthetic"] == 1.0


def test_of_a_share_the_model_is_trained_anew_and_sees_nothing_else(tmp_path, monkeypatch):
    seen = []

    def sampler_of(config, few, held_out, scratch):
        seen.append(few.images)
        return "anew", noise

    monkeypatch.setattr("recipes.common.scores.few.sampler_of", sampler_of)
    monkeypatch.setattr(utility, "check", lambda config: None)
    found, _ = run_stage(tmp_path, monkeypatch, noise, seeds=1, max_steps=5, shares=(0.3, 1.0), samples=None)
    train, _ = digit_pictures()
    assert [len(images) for images in seen] == [30, 100]  # 0.3 of the 100 that are asked for, and all of them
    assert all(np.array_equal(images, train.images[: len(images)]) for images in seen)
    names = {name for name, _ in values(found)}
    assert names == {
        f"{name}, {share} of the pictures" for name in (ACCURACY, GAIN, LEAK) for share in ("30%", "100%")
    }


def test_what_has_no_classes_is_refused_with_its_reason(tmp_path, monkeypatch):
    config = config_of(tmp_path)
    utility.check(config)
    with pytest.raises(UserError, match="section `features:`, which the recipe has not"):
        utility.check(config.model_copy(update={"features": None}))
    with pytest.raises(UserError, match="model.conditional is false\nway out: model.conditional=true"):
        utility.check(config.model_copy(update={"model": Model(conditional=False)}))
    with pytest.raises(UserError, match="label_column is null.*\nway out: no section `utility:`"):
        utility.check(config_of(tmp_path, source="parquet", path="x", label_column=None))
    with pytest.raises(UserError, match="cannot be trained anew"):
        few = config.utility.model_copy(update={"shares": (0.1, 1.0)})
        monkeypatch.setattr(utility, "family_module", lambda config, name: SimpleNamespace())
        utility.check(config.model_copy(update={"utility": few}))
    with pytest.raises(UserError, match="does not divide"):
        uneven = config.features.model_copy(update={"per_device_train_batch_size": 48})
        utility.check(config.model_copy(update={"features": uneven}))
    with pytest.raises(UserError, match="this model draws none"):
        run_stage(tmp_path / "none", monkeypatch, None)


def test_prepared_pictures_without_labels_are_refused(tmp_path, monkeypatch):
    nameless = [replace(split, labels=-1 + 0 * split.labels, classes=()) for split in digit_pictures()]
    with pytest.raises(UserError, match="utility trains a classifier, and the pictures have 0 classes"):
        run_stage(tmp_path, monkeypatch, noise, nameless)
