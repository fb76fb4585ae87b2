"""Catches a sheet that shows something else than it says: an end that is no end, a group drawn anew too early."""

import numpy as np
import pytest
import torch
from PIL import Image

from recipes.common.images.dataset import PreparedImages
from recipes.vae import sheets
from recipes.vae.reconstruction import reconstructed
from tests.images.vae_cases import prepared_digits, shaken_net, vae_config

SMALL = ("model.hidden_size=8", "model.groups=[[1,4],[4,3]]")


@pytest.fixture
def net():
    return shaken_net(vae_config(*SMALL))


@pytest.fixture
def held_out(tmp_path):
    return PreparedImages.open(prepared_digits(tmp_path), "held_out")


def cells(path, side=8) -> np.ndarray:
    """The pictures of a sheet, (rows, columns, side, side)."""
    page = np.asarray(Image.open(path))
    rows, columns = (np.array(page.shape) + 1) // (side + 1)
    return np.stack(
        [np.stack([page[r * 9 : r * 9 + 8, c * 9 : c * 9 + 8] for c in range(columns)]) for r in range(rows)]
    )


def test_interpolations_begin_and_end_at_the_two_pictures(net, held_out, tmp_path):
    images, labels = np.array(held_out.images[:4]), held_out.labels[:4]
    sheets.interpolations(net, images, labels, tmp_path / "i.png")
    shown, back = cells(tmp_path / "i.png"), reconstructed(net, images, labels)[..., 0]
    assert shown.shape[:2] == (2, sheets.STEPS + 2)
    for row, (left, right) in enumerate(((0, 1), (2, 3))):
        assert np.array_equal(shown[row, 0], images[left, ..., 0])
        assert np.array_equal(shown[row, -1], images[right, ..., 0])
        for place, picture in ((1, left), (-2, right)):
            assert np.abs(shown[row, place].astype(int) - back[picture]).max() <= 1


def test_the_great_circle_keeps_its_distance_from_the_origin():
    one, other = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    one, other = one / one.norm(), other / other.norm()
    for share in (0.0, 0.3, 1.0):
        assert float(sheets.great_circle(one, other, share).norm()) == pytest.approx(1, abs=1e-5)
    assert torch.allclose(sheets.great_circle(one, other, 0.0), one, atol=1e-6)
    assert torch.allclose(sheets.great_circle(one, other, 1.0), other, atol=1e-6)
    assert torch.equal(sheets.great_circle(one, one, 0.4), one)


def test_a_traversal_moves_along_a_row_and_nothing_else_does(net, held_out, tmp_path):
    sheets.traversals(net, np.array(held_out.images[:9]), held_out.labels[:9], tmp_path / "t.png")
    shown = cells(tmp_path / "t.png")
    assert shown.shape[:2] == (4, sheets.STEPS)  # the top group has four latents
    assert all(len(np.unique(row.reshape(sheets.STEPS, -1), axis=0)) > 1 for row in shown)


def test_the_last_row_of_the_groups_is_one_picture_and_the_first_is_not(net, tmp_path):
    sheets.group_draws(net, 3, 0, tmp_path / "g.png")
    shown = cells(tmp_path / "g.png")
    assert shown.shape[:2] == (2, 10)
    assert len(np.unique(shown[0].reshape(10, -1), axis=0)) > 1
    assert len(np.unique(shown[1].reshape(10, -1), axis=0)) == 1


def test_reconstructions_stand_under_their_pictures(net, held_out, tmp_path):
    images, labels = np.array(held_out.images[:20]), held_out.labels[:20]
    sheets.reconstructions(net, images, labels, tmp_path / "r.png")
    shown, back = cells(tmp_path / "r.png"), reconstructed(net, images, labels)[..., 0]
    assert np.array_equal(shown[0], images[:10, ..., 0]) and np.array_equal(shown[2], images[10:, ..., 0])
    assert np.array_equal(shown[1], back[:10]) and np.array_equal(shown[3], back[10:])


@pytest.mark.parametrize(
    "given,files",
    [
        ((), {"reconstructions.png", "interpolations.png", "traversals.png", "groups.png"}),
        (("model.kind=vq", "model.groups=[[4,6]]"), {"reconstructions.png"}),
    ],
)
def test_each_kind_has_its_sheets(given, files, held_out, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    sheets.write_sheets(shaken_net(vae_config(*SMALL, *given)), held_out, 0, out)
    assert {path.name for path in out.iterdir()} == files
