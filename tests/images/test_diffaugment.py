"""Catches an augmentation that leaves its range, looks at the neighbours, stops the gradient or does nothing."""

import pytest
import torch

from recipes.gan.diffaugment import DRAWS, augment, colour, cutout, translation

ALL = ("colour", "translation", "cutout")


def pictures(count=6, channels=3, side=16, seed=0):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def draws(count=6, seed=1):
    return torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(seed))


def of(*values):
    """One picture's draws, as the functions take them."""
    return tuple(torch.tensor(value).view(1, 1, 1, 1) for value in values)


def test_nothing_asked_is_nothing_done():
    assert torch.equal(augment(pictures(), (), draws()), pictures())


@pytest.mark.parametrize("kind", ALL)
def test_each_kind_changes_pictures_by_draws_of_its_own(kind):
    others = {"colour": slice(3, 7), "translation": [0, 1, 2, 5, 6], "cutout": slice(0, 5)}[kind]
    changed = draws()
    changed[:, others] = draws(seed=2)[:, others]
    found = augment(pictures(), (kind,), draws())
    assert not torch.equal(found, pictures())
    assert torch.equal(found, augment(pictures(), (kind,), changed))


@pytest.mark.parametrize("kind", ALL)
def test_a_picture_does_not_look_at_its_neighbours(kind):
    together = augment(pictures(), (kind,), draws())
    for place in range(6):
        alone = augment(pictures()[place : place + 1], (kind,), draws()[place : place + 1])
        assert torch.equal(alone[0], together[place])


def test_colour_in_the_middle_of_its_ranges_is_the_identity():
    x = pictures(1)
    assert torch.allclose(colour(x, of(0.5, 0.5, 0.5)), x, atol=1e-6)


def test_colour_at_the_ends_of_its_ranges():
    x = pictures(1)
    assert torch.allclose(colour(x, of(0.0, 0.5, 0.5)), x - 0.5, atol=1e-6)
    grey = colour(x, of(0.5, 0.0, 0.5))
    assert torch.allclose(grey, x.mean(dim=1, keepdim=True).expand_as(x), atol=1e-6)
    flat = colour(x, of(0.5, 0.5, 0.0))
    assert torch.allclose(flat, x.mean() + (x - x.mean()) / 2, atol=1e-6)


@pytest.mark.parametrize(("draw", "shift"), [(0.0, -2), (0.499, 0), (0.5, 0), (0.9999, 2)])
def test_translation_moves_by_whole_pixels_and_fills_with_nought(draw, shift):
    x = pictures(1)
    down = translation(x, of(draw, 0.5))
    right = translation(x, of(0.5, draw))
    assert torch.equal(down, rolled(x, shift, 2)) and torch.equal(right, rolled(x, shift, 3))


def rolled(x, shift, dim):
    found = torch.roll(x, shift, dim)
    gone = range(shift) if shift >= 0 else range(x.shape[dim] + shift, x.shape[dim])
    return found.index_fill(dim, torch.tensor(list(gone), dtype=torch.int64), 0)


def test_every_shift_is_as_likely_as_the_others():
    x = torch.zeros(5, 1, 16, 16)
    x[:, :, 8, 8] = 1
    evenly = torch.arange(5).add(0.5).div(5).view(5, 1, 1, 1)
    rows = translation(x, (evenly, torch.full_like(evenly, 0.5))).sum(dim=(1, 3)).argmax(dim=1)
    assert rows.tolist() == [6, 7, 8, 9, 10]


def test_cutout_takes_half_a_side_wherever_its_centre_lies():
    x = torch.ones(1, 2, 16, 16)
    middle = cutout(x, of(0.5, 0.5))
    assert middle.sum() == 2 * (256 - 64) and middle[0, 0, 4:12, 4:12].sum() == 0
    corner = cutout(x, of(0.0, 0.0))
    assert corner.sum() == 2 * (256 - 16) and corner[0, 0, :4, :4].sum() == 0


def test_the_gradient_reaches_what_is_shown_and_only_that():
    x = pictures().requires_grad_(True)
    augment(x, ("translation", "cutout"), draws()).sum().backward()
    assert set(x.grad.unique().tolist()) == {0.0, 1.0}


def test_the_gradient_of_all_kinds_is_the_derivative():
    x, numbers, direction = pictures(2, side=8), draws(2), pictures(2, side=8, seed=3)
    x.requires_grad_(True)  # every kind is linear in it: a difference over 1 is the derivative
    weights = pictures(2, side=8, seed=4)
    (augment(x, ALL, numbers) * weights).sum().backward()
    with torch.no_grad():
        steps = [(augment(x + sign * direction, ALL, numbers) * weights).sum() for sign in (1, -1)]
    assert (steps[0] - steps[1]).item() / 2 == pytest.approx((x.grad * direction).sum().item(), rel=1e-5)


def test_it_is_exact_under_half_precision():
    with torch.autocast("cpu", torch.bfloat16):
        found = augment(pictures(), ALL, draws())
    assert found.dtype == torch.float32 and torch.equal(found, augment(pictures(), ALL, draws()))
