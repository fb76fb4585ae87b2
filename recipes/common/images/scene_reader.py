"""What stands in a picture of a scene, found without a net: patches of one colour, and the shape that covers each best.

Shapes: H rows, W columns.
"""

from dataclasses import dataclass

import numpy as np

from recipes.common.images.scenes import COLOURS, PAPER, RELATIONS, SHAPES, Group, Scene, inside

NAMES = tuple(COLOURS)
LEAST = 0.008  # of the picture: smaller patches are dirt
AREAS = {"circle": np.pi / 4, "square": 0.81, "triangle": 0.5}  # of a shape of width 1
LOWER = {
    "circle": 0.0,
    "square": 0.0,
    "triangle": 1 / 6,
}  # its middle of mass below that of its box, in widths
FINE = 4


@dataclass(frozen=True)
class Thing:
    """row, column: of its middle, in pixels."""

    colour: str
    shape: str
    row: float
    column: float


def things_in(picture: np.ndarray) -> list[Thing]:
    """Every patch of a picture uint8 (H, W, 3), from the top."""
    from scipy import ndimage

    nearest, cover = _covers(picture)
    found = []
    for number, colour in enumerate(NAMES):
        patches, count = ndimage.label((nearest == number) & (cover > 0.5))
        for patch in range(1, count + 1):
            mask = patches == patch
            if mask.sum() >= LEAST * mask.size:
                around = ndimage.binary_dilation(mask, np.ones((3, 3)))
                found.append(_thing(colour, cover * (around & (nearest == number))))
    return sorted(found, key=lambda thing: (thing.row, thing.column))


def _covers(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the colour whose mixture with paper is nearest, its share in the mixture) of each pixel, both (H, W)."""
    ink = picture.astype(np.float64) - PAPER
    directions = np.array([*COLOURS.values()], np.float64) - PAPER
    shares = np.clip(ink @ directions.T / (directions**2).sum(axis=1), 0, 1)
    misfits = np.linalg.norm(ink[:, :, None] - shares[..., None] * directions, axis=-1)
    nearest = misfits.argmin(axis=-1)
    return nearest, np.take_along_axis(shares, nearest[..., None], axis=-1)[..., 0]


def _thing(colour: str, cover: np.ndarray) -> Thing:
    """The shape of the same area and middle that differs least from a patch (H, W)."""
    rows, columns = np.mgrid[: len(cover), : cover.shape[1]] + 0.5
    area = cover.sum()
    row, column = (rows * cover).sum() / area, (columns * cover).sum() / area
    misfits = {shape: np.abs(cover - _ideal(shape, area, row, column, cover.shape)).sum() for shape in SHAPES}
    return Thing(colour, min(misfits, key=misfits.__getitem__), float(row), float(column))


def _ideal(shape: str, area: float, row: float, column: float, size: tuple[int, int]) -> np.ndarray:
    """What the shape of this area and middle of mass would cover, (H, W) in [0, 1]."""
    width = float(np.sqrt(area / AREAS[shape]))
    rows, columns = ((np.arange(length * FINE) + 0.5) / FINE for length in size)
    covered = inside(shape, rows[:, None] - row + LOWER[shape] * width, columns[None] - column, width / 2)
    return covered.reshape(size[0], FINE, size[1], FINE).mean(axis=(1, 3))


@dataclass(frozen=True)
class Held:
    """What of a scene a picture shows. relation: None where the scene has none."""

    colour: bool
    shape: bool
    count: bool
    relation: bool | None

    @property
    def whole(self) -> bool:
        return self.colour and self.shape and self.count and self.relation is not False


def held(picture: np.ndarray, scene: Scene) -> Held:
    """colour, shape: exactly those asked for; count: as many things of each group's colour as asked for; relation:
    every thing of the first group's colour on its side of every one of the second's."""
    things = things_in(picture)
    colours, shapes = {group.colour for group in scene.groups}, _kinds(scene.groups)
    of = {colour: [thing for thing in things if thing.colour == colour] for colour in colours}
    return Held(
        colour={thing.colour for thing in things} == colours,
        shape={(thing.colour, thing.shape) for thing in things} == shapes,
        count=all(len(of[group.colour]) == group.count for group in scene.groups)
        and len(things) == sum(group.count for group in scene.groups),
        relation=_stands(of, scene) if scene.second else None,
    )


def _kinds(groups: tuple[Group, ...]) -> set[tuple[str, str]]:
    return {(group.colour, group.shape) for group in groups}


def _stands(of: dict[str, list[Thing]], scene: Scene) -> bool:
    assert scene.second is not None
    axis, before = RELATIONS[scene.relation]
    first, second = (
        [(thing.row, thing.column)[axis] for thing in of[group.colour]]
        for group in (scene.first, scene.second)
    )
    if not first or not second:
        return False
    return max(first) < min(second) if before else min(first) > max(second)
