"""Catches a score without its baseline, bits that are no bound any more, a claim that a VQ-VAE cannot make."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from pipeline.run.files import write_json
from pipeline.run.stage import Context, Stage
from recipes.common.images.shape import Shape
from recipes.common.scores.anomaly import chosen
from recipes.common.scores.bits import baselines
from recipes.vae import anomaly, evaluate
from recipes.vae.nets import NETS, describe
from tests.images.vae_cases import prepared_digits, shaken_net, vae_config

SMALL = (
    "model.hidden_size=8",
    "evaluate.pictures=30",
    "evaluate.importance_samples=3",
    "evaluate.resamples=20",
)


def context_of(tmp_path: Path, config) -> Context:
    """A stage's context with prepared digits and a net with shaken weights; without a classifier."""
    for name in ("prepare", "train", "out"):
        (tmp_path / name).mkdir()
    prepared_digits(tmp_path / "prepare")
    write_json(tmp_path / "train" / NETS, describe(config.model, Shape(8, 1, 10)))
    for seed, name in enumerate(("vae", "vae_ema")):
        save_file(shaken_net(config, seed).state_dict(), tmp_path / "train" / f"{name}.safetensors")
    inputs = {name: tmp_path / name for name in ("prepare", "train")}
    out = tmp_path / "out"
    return Context(config, Stage("evaluate", "", {}), inputs, out, out, out, io.StringIO())


def written(out: Path) -> tuple[dict, dict]:
    """(score by (name, model), missing)."""
    found = json.loads((out / "evaluation.json").read_text())
    return {(score["name"], score["model"]): score for score in found["scores"]}, found["missing"]


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(evaluate, "_pictures", lambda config, context: ([], {}))


def test_bits_per_dimension_stand_beside_their_baselines(tmp_path, no_pictures):
    metrics = evaluate.run(context_of(tmp_path, vae_config(*SMALL)))
    scores, missing = written(tmp_path / "out")
    bits = {model: score for (name, model), score in scores.items() if name == "bits per dimension"}
    assert list(bits) == ["EMA, ELBO", "EMA, importance-weighted", "last step, ELBO", "a uniform code", "PNG"]
    assert bits["a uniform code"]["value"] == 8 and missing == {}
    assert bits["EMA, importance-weighted"]["value"] < bits["EMA, ELBO"]["value"]
    low, high = bits["EMA, ELBO"]["interval"]
    assert low < bits["EMA, ELBO"]["value"] < high and bits["EMA, ELBO"]["count"] == 30
    assert metrics["bits_per_dimension/EMA, ELBO"] == bits["EMA, ELBO"]["value"]
    groups = [model for name, model in scores if name == "active units"]
    assert groups == ["EMA, group 0 (2 x 2 x 8)", "EMA, group 1 (4 x 4 x 4)"]


def test_the_class_is_paid_for(tmp_path, no_pictures):
    """What is told to the model is not free: the bound is on a picture without its class."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.vae.bounds import elbo, value_of

    config = vae_config(*SMALL)
    evaluate.run(context_of(tmp_path, config))
    held = PreparedImages.open(tmp_path / "prepare", "held_out")
    nats = -value_of(elbo(shaken_net(config, 1), held.images[:30], held.labels[:30], 0)).double().mean()
    expected = (float(nats) + math.log(10)) / (64 * math.log(2))
    assert written(tmp_path / "out")[0]["bits per dimension", "EMA, ELBO"]["value"] == pytest.approx(expected)


def test_glow_is_quoted_for_fashion_mnist_alone():
    images = np.zeros((3, 28, 28, 1), np.uint8)
    for source, shown in (("fashion_mnist", True), ("digits", False)):
        models = {score.model: score.value for score in baselines(images, source, 20, 0)}
        assert (models.get("Glow (published)") == 2.96) == shown


def test_binary_bits_stand_beside_no_code_of_bytes(tmp_path, no_pictures):
    evaluate.run(context_of(tmp_path, vae_config(*SMALL, "model.likelihood=bernoulli")))
    scores, missing = written(tmp_path / "out")
    assert ("bits per dimension", "a uniform code") not in scores
    assert "binary pixels" in scores["bits per dimension", "EMA, ELBO"]["protocol"]
    assert "not comparable" in missing["baselines of bits per dimension"]


def test_a_vq_vae_claims_reconstructions_and_no_likelihood(tmp_path):
    config = vae_config(*SMALL, "model.kind=vq", "model.groups=[[4,6]]")
    evaluate.run(context_of(tmp_path, config))
    scores, missing = written(tmp_path / "out")
    assert {name for name, _ in scores} == {
        "reconstruction",
        "size of the code",
        "codes used",
        "perplexity of the codes",
    }
    assert "no prior of its own" in missing["scores of generated pictures"]


def test_anomaly_scores_another_data_set(tmp_path):
    """Digits against themselves: nothing is told apart, which another set's size or order would change."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.images.other import images_of, read

    context = context_of(tmp_path, vae_config(*SMALL, "anomaly.other.source=digits", "anomaly.pictures=40"))
    same = read(images_of(context.config.data, context.config.anomaly.other), 50)
    np.save(tmp_path / "prepare" / "held_out.images.npy", same)
    held_out = PreparedImages.open(tmp_path / "prepare", "held_out")
    both, unseen, name = chosen(context.config, held_out)
    assert np.array_equal(both[unseen], both[~unseen]) and unseen.sum() == 20
    anomaly.run(context)
    scores, _ = written(tmp_path / "out")
    found = scores["anomaly detection", "distance to the nearest training picture"]
    assert found["value"] == 0.5 and name in found["protocol"] and name == "digits, another data set"


def test_anomaly_scores_the_left_out_class_against_both(tmp_path):
    context = context_of(tmp_path, vae_config(*SMALL, "data.left_out_class='3'", "anomaly.pictures=20"))
    files = [tmp_path / "prepare" / f"train.{name}.npy" for name in ("images", "labels")]
    kept = np.load(files[1]) != 3
    for file in files:
        np.save(file, np.load(file)[kept])
    anomaly.run(context)
    scores, _ = written(tmp_path / "out")
    distance = scores["anomaly detection", "distance to the nearest training picture"]
    assert distance["value"] > 0.5
    for name in ("negative bound", "negative bound less WebP's size"):
        own = scores["anomaly detection", name]
        gain = scores["anomaly gain", f"{name}, over pixel distance"]
        assert 0 <= own["value"] <= 1 and gain["value"] == pytest.approx(own["value"] - distance["value"])
        assert gain["interval"][0] < gain["value"] < gain["interval"][1]
