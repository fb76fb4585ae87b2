"""Catches a measure that looks at the paper, at the outline, or at the wrong channel."""

import numpy as np
import pytest

from recipes.design.measures import COLOURS, measured, shown, thirds


def square(colour, paper, side=16, top=4, left=4, height=8, width=8) -> np.ndarray:
    """A filled box on paper, uint8 (1, side, side, 3)."""
    picture = np.full((1, side, side, 3), paper, np.uint8)
    picture[:, top : top + height, left : left + width] = colour
    return picture


def value(name: str, picture: np.ndarray) -> float:
    (found,) = measured(name, picture)
    return found


@pytest.mark.parametrize("paper", [0, 255])
def test_paper_is_the_colour_of_the_border_whatever_it_is(paper):
    picture = square(128, paper)
    assert shown(picture).sum() == 64
    assert value("tone", picture) == 128
    assert value("size", picture) == pytest.approx(64 / 256)


def test_shape_is_that_of_the_box_around_what_is_shown():
    assert value("shape", square(0, 255, height=4, width=8)) == 2
    assert value("shape", square(0, 255, height=8, width=4)) == 0.5
    assert value("shape", np.full((1, 8, 8, 1), 255, np.uint8)) == 1  # nothing is shown


def test_detail_does_not_count_the_outline():
    assert value("detail", square(200, 0)) == 0
    stripes = square(200, 0)
    stripes[:, 4:12:2, 4:12] = 100
    assert value("detail", stripes) == pytest.approx(50, rel=0.01)  # 100 down, 0 across


@pytest.mark.parametrize(
    "colour, name",
    [
        ((220, 20, 30), "red"),
        ((230, 20, 60), "red"),
        ((240, 130, 20), "orange"),
        ((230, 220, 30), "yellow"),
        ((30, 180, 60), "green"),
        ((30, 60, 200), "blue"),
        ((150, 40, 200), "purple"),
        ((120, 122, 118), "grey"),
        ((0, 0, 0), "grey"),
    ],
)
def test_a_filled_box_has_the_colour_that_people_call_it(colour, name):
    assert COLOURS[int(value("colour", square(colour, 255)))] == name


def test_thirds_hold_a_third_each():
    low, high = thirds(np.arange(999))
    assert (np.digitize(np.arange(999), (low, high)) == np.repeat((0, 1, 2), 333)).all()


def test_pictures_are_measured_alike_in_any_company():
    pictures = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
    for name in ("tone", "size", "shape", "detail", "colour"):
        alone = np.concatenate([measured(name, picture[None]) for picture in pictures])
        assert (measured(name, pictures) == alone).all()
