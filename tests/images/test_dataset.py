"""Catches a picture that loses its label, an order that cannot be resumed, and pixels that come back changed."""

import json

import numpy as np
import pytest
import torch

from recipes.common.images.dataset import ImageSplit, PreparedImages
from recipes.common.images.pixels import to_pixels, to_unit


@pytest.fixture
def prepared(picture):
    """50 pictures; the first pixel of number i is i, its label i modulo 7."""
    images = np.stack([picture(number) for number in range(50)])
    return PreparedImages(images, np.arange(50) % 7, tuple("abcdefg"))


def number_of(item):
    """The number in a corner of the picture, which a flip moves."""
    corners = item["image"][0, 0], item["image"][0, -1]
    return [int(corner[0]) for corner in corners]


def test_each_epoch_is_a_permutation_of_its_own_and_labels_stay_with_their_pictures(prepared):
    split = ImageSplit(prepared, seed=3)
    numbers = [number_of(split.item(index))[0] for index in range(100)]
    assert sorted(numbers[:50]) == sorted(numbers[50:]) == list(range(50))
    assert numbers[:50] != numbers[50:] and numbers[:50] != list(range(50))
    for index, number in enumerate(numbers):
        assert split.item(index)["label"] == number % 7


@pytest.mark.parametrize("flip", [False, True])
def test_a_sample_is_a_function_of_seed_and_index(prepared, flip):
    one, other = (ImageSplit(prepared, seed=3, flip=flip) for _ in range(2))
    expected = [one.item(index) for index in range(120)]
    for index in (119, 7, 60, 61, 0, 118):  # another order, as after a resume in the third epoch
        for name, value in other.item(index).items():
            assert np.array_equal(value, expected[index][name])
    another = ImageSplit(prepared, seed=4, flip=flip)
    assert any(not np.array_equal(another.item(i)["image"], expected[i]["image"]) for i in range(5))


def test_a_flip_mirrors_left_to_right_about_half_the_time_and_anew_each_epoch(prepared):
    plain, flipped = ImageSplit(prepared, seed=3), ImageSplit(prepared, seed=3, flip=True)
    mirrored, of_picture = [], {}
    for index in range(400):
        before, after = plain.item(index)["image"], flipped.item(index)["image"]
        mirrored.append(np.array_equal(after, before[:, ::-1]))
        assert mirrored[-1] or np.array_equal(after, before)
        of_picture.setdefault(int(before[0, 0, 0]), set()).add(mirrored[-1])
    assert 160 < sum(mirrored) < 240  # four standard deviations of 400 coins
    assert sum(len(seen) == 2 for seen in of_picture.values()) > 40  # of 50, in 8 epochs


def test_without_a_seed_pictures_come_as_they_lie_and_are_never_mirrored(prepared):
    split = ImageSplit(prepared, seed=None, flip=True)
    assert split.length == 50
    assert [number_of(split.item(index))[0] for index in range(60)] == [*range(50), *range(10)]


def test_an_item_is_a_copy_of_the_documented_types(prepared):
    split = ImageSplit(prepared, seed=None)
    item = split.item(0)
    assert item["image"].dtype == np.uint8 and item["image"].shape == (8, 8, 3)
    assert item["label"].dtype == np.int64 and item["label"].shape == ()
    item["image"][:] = 0
    assert split.item(0)["image"].any()
    torch.from_numpy(item["image"])  # warns where it cannot be written


def test_a_split_is_opened_without_reading_its_pictures(tmp_path, prepared):
    np.save(tmp_path / "train.images.npy", prepared.images)
    np.save(tmp_path / "train.labels.npy", prepared.labels)
    (tmp_path / "classes.json").write_text(json.dumps(prepared.classes))
    opened = PreparedImages.open(tmp_path, "train")
    assert isinstance(opened.images.base, np.memmap) and not opened.images.flags.writeable
    assert np.array_equal(opened.images, prepared.images) and np.array_equal(opened.labels, prepared.labels)
    assert opened.classes == prepared.classes
    with pytest.raises(FileNotFoundError):
        PreparedImages.open(tmp_path, "held_out")


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_value_survives_the_way_to_numbers_and_back(channels):
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 8, 8, 1).repeat(1, 1, 1, channels)
    unit = to_unit(images)
    assert unit.shape == (4, channels, 8, 8) and unit.dtype == torch.float32
    assert unit.is_contiguous(memory_format=torch.channels_last)
    assert unit.min() == -1 and unit.max() == 1
    assert torch.equal(to_pixels(unit), images)


def test_numbers_out_of_range_are_clamped_and_those_between_rounded():
    given = torch.tensor([-3.0, 3.0, 0.6 / 127.5 - 1, 0.4 / 127.5 - 1]).reshape(1, 1, 2, 2)
    for numbers in (given, given.to(torch.bfloat16).clamp(-2, 2)):
        assert to_pixels(numbers)[0, 0].flatten().tolist() == [0, 255]
    assert to_pixels(given).flatten().tolist() == [0, 255, 1, 0]


def test_axes_and_channels_keep_their_places(picture):
    images = torch.from_numpy(np.stack([picture(number) for number in range(3)]))
    unit = to_unit(images)
    assert unit[1, 2, 3, 4] == images[1, 3, 4, 2].item() / 127.5 - 1
