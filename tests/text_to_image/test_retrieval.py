"""Catches a search that counts another caption's picture as found, and nets that are punished for a right answer."""

import numpy as np
import torch

from pipeline.train.recipe import Clock
from recipes.common.images.dataset import PreparedImages
from recipes.common.images.shape import Shape
from recipes.common.training import save_nets, trained_here
from recipes.text_to_image.captions import Captions
from recipes.text_to_image.dual import DualEncoder
from recipes.text_to_image.retrieval import AMONG, found_among, load_retriever, network_of
from tests.text_to_image.cases import config_of, scenes_of, write_captions


def test_what_is_found_is_its_own_or_has_its_caption():
    rows = np.eye(4, dtype=np.float32)
    labels = np.array([0, 1, 2, 3])
    assert found_among(rows, rows, labels).all()
    assert found_among(rows, rows[[1, 0, 2, 3]], labels).tolist() == [False, False, True, True]
    assert found_among(rows, rows[[1, 0, 2, 3]], np.array([0, 0, 2, 3])).all()


def test_each_is_looked_for_in_its_own_hundred():
    rows = np.tile(np.eye(AMONG, dtype=np.float32), (2, 1))
    assert found_among(rows, rows, np.arange(2 * AMONG)).all()


def recipe_of(tmp_path, *overrides):
    prepared, known = write_captions(tmp_path, scenes_of())
    settings = config_of(*overrides).retrieval
    train, held_out = (PreparedImages.open(prepared, split) for split in ("train", "held_out"))
    return DualEncoder(settings, Shape.of(train), Captions.open(known), train, held_out)


def test_a_picture_is_not_told_from_its_own_caption(tmp_path):
    recipe = recipe_of(tmp_path, "retrieval.negatives=40")
    batch = recipe.collate([recipe.data().item(index) for index in range(20)])
    same = (batch["ids"] == batch["ids"][:, :1]).all(dim=2)
    same[:, 0] = False
    assert torch.equal(same, batch["same"]) and same.any()
    net = recipe.nets()["model"]
    loss = recipe.loss("model", {"model": net}, batch, Clock(0, 0)).total
    batch["ids"][batch["same"]] = 0
    assert torch.equal(recipe.loss("model", {"model": net}, batch, Clock(0, 0)).total, loss)


def test_the_nets_learn_what_belongs_together_and_are_loaded_as_they_were(tmp_path):
    quick = ("retrieval.max_steps=120", "retrieval.learning_rate=0.005", "retrieval.bf16=false")
    sizes = (
        "retrieval.train_batch_size=32",
        "retrieval.per_device_train_batch_size=32",
        "retrieval.features=16",
    )
    recipe = recipe_of(tmp_path, *quick, *sizes, "retrieval.negatives=7")
    trainer = trained_here(recipe)
    save_nets(trainer, recipe, tmp_path)
    retriever = load_retriever(tmp_path)
    pictures, labels = recipe.train.images[:60], recipe.train.labels[:60]
    rows, told = retriever.of_pictures(pictures), retriever.of_captions(recipe.captions, labels)
    assert found_among(rows, told, labels).mean() > 0.3  # chance: 1 in 60
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert np.array_equal(rows[:1], retriever.of_pictures(pictures[:1]))
    held_out = PreparedImages.open(tmp_path / "prepare", "held_out").images
    features = network_of(retriever, tmp_path / "prepare")(held_out)
    assert features.shape[1] == 16 and abs((features**2).mean() - 1) < 1e-4
