"""Catches scenes that are not what their caption says, and a reader that takes wrong ones for right."""

from dataclasses import replace

import numpy as np
import pytest

from recipes.common.images.config import Captioned
from recipes.common.images.scene_reader import held, things_in
from recipes.common.images.scenes import Group, Scene, all_scenes, drawn, scene_of, scenes

SCENES = list(all_scenes())
SOME = [SCENES[place] for place in np.random.default_rng(0).choice(len(SCENES), 60, replace=False)]


def test_a_caption_says_one_scene_and_says_it_in_words():
    assert len({str(scene) for scene in SCENES}) == len(SCENES)
    assert all(scene_of(str(scene)) == scene for scene in SCENES)
    told = Scene(Group(2, "red", "circle"), "above", Group(1, "blue", "square"))
    assert str(told) == "two red circles above a blue square"


@pytest.mark.parametrize(
    "caption", ["", "a red", "a purple circle", "four red circles", "a red circle above", "dog"]
)
def test_other_words_say_no_scene(caption):
    assert scene_of(caption) is None


@pytest.mark.parametrize("side", [24, 32, 64])
def test_the_reader_finds_everything_in_a_real_picture(side):
    read = [held(drawn(scene, take, side), scene) for take, scene in enumerate(SOME)]
    assert all(one.whole for one in read), [
        str(scene) for one, scene in zip(read, SOME, strict=True) if not one.whole
    ]


def test_the_reader_finds_each_kind_of_mistake():
    scene = Scene(Group(2, "red", "circle"), "above", Group(1, "blue", "square"))
    picture = drawn(scene, 0, 32)
    wrong = {
        "colour": replace(scene, first=Group(2, "green", "circle")),
        "shape": replace(scene, first=Group(2, "red", "triangle")),
        "count": replace(scene, first=Group(3, "red", "circle")),
        "relation": replace(scene, relation="below"),
    }
    for part, other in wrong.items():
        found = held(picture, other)
        assert not getattr(found, part) and not found.whole, part
    assert not held(picture, scene.__class__(scene.first)).whole  # something more than was asked for
    assert not held(np.full((32, 32, 3), 255, np.uint8), scene).whole
    assert not held(np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8), scene).whole


def test_the_reader_says_where_things_are():
    picture = drawn(Scene(Group(1, "red", "circle"), "left of", Group(1, "blue", "square")), 0, 32)
    first, second = sorted(things_in(picture), key=lambda thing: thing.column)
    assert (first.colour, first.shape) == ("red", "circle") and first.column < 16 < second.column


def test_a_scene_follows_from_its_caption_and_take_alone():
    scene = SCENES[100]
    assert np.array_equal(drawn(scene, 1, 32), drawn(scene, 1, 32))
    assert not np.array_equal(drawn(scene, 1, 32), drawn(scene, 2, 32))


def test_a_scene_and_its_mirror_image_in_words_are_held_out_together():
    """Catches `A above B` in training and `B below A` held out: the same scene."""
    source = scenes(Captioned(source="scenes", image_size=32, channels=3))
    side = {source.classes[row.label]: row.held_out for row in source.rows}
    pairs = [
        (
            str(scene),
            str(Scene(scene.second, {"above": "below", "left of": "right of"}[scene.relation], scene.first)),
        )
        for scene in SCENES
        if scene.relation in ("above", "left of")
    ]
    assert len(pairs) > 500 and all(side[one] == side[other] for one, other in pairs)
    assert 0.07 < np.mean([row.held_out for row in source.rows]) < 0.13
