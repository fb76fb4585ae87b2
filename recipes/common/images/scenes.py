"""Scenes whose truth is known: coloured shapes, how many, and where one group stands to the other, with their captions.

`two red circles above a blue square` is a caption; each of its scenes is drawn from its number and its take alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from pipeline.data.sources import is_held_out
from pipeline.train.seeds import derived_seed
from recipes.common.images.config import Images
from recipes.common.rows import Row, Source

COLOURS = {"red": (214, 39, 40), "green": (44, 150, 44), "blue": (31, 90, 200), "yellow": (240, 190, 20)}
SHAPES = ("circle", "square", "triangle")
NUMBERS = ("a", "two", "three")  # of one, two and three
# How two groups stand: (the words, along which axis, whether the first group has the smaller coordinate).
RELATIONS = {
    "above": (0, True),
    "below": (0, False),
    "left of": (1, True),
    "right of": (1, False),
}
ALONE, TOGETHER = 3, 2  # shapes of one group at most, and of each of two
TAKES = 8  # pictures of each caption of two groups; of one group three times as many, for there are few
WIDTHS = (0.24, 0.34)  # of a shape, as a share of the picture's side
APART = 0.05  # paper between two shapes, at least
FINE = 4  # pixels a side of a pixel while a shape is drawn, so that its border is smooth
PAPER = 255


@dataclass(frozen=True)
class Group:
    """count: 1 to 3."""

    count: int
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{NUMBERS[self.count - 1]} {self.colour} {self.shape}{'s' if self.count > 1 else ''}"


@dataclass(frozen=True)
class Scene:
    """One group, or two with a relation."""

    first: Group
    relation: str = ""
    second: Group | None = None

    def __str__(self) -> str:
        return f"{self.first} {self.relation} {self.second}" if self.second else str(self.first)

    @property
    def groups(self) -> tuple[Group, ...]:
        return (self.first, self.second) if self.second else (self.first,)

    @property
    def arrangement(self) -> str:
        """The same for `A above B` and `B below A`, which are the same scene."""
        if self.second is None:
            return str(self)
        axis, before = RELATIONS[self.relation]
        first, second = (self.first, self.second) if before else (self.second, self.first)
        return f"{axis}: {first}, {second}"


def all_scenes() -> Iterator[Scene]:
    """Every scene there is: one group, or two that differ in colour and in shape."""
    groups = [Group(*one) for one in product(range(1, ALONE + 1), COLOURS, SHAPES)]
    yield from map(Scene, groups)
    few = [group for group in groups if group.count <= TOGETHER]
    for first, relation, second in product(few, RELATIONS, few):
        if first.colour != second.colour and first.shape != second.shape:
            yield Scene(first, relation, second)


def scene_of(caption: str) -> Scene | None:
    """The scene that a caption says; None: it says none."""
    for relation in RELATIONS:
        first, found, second = caption.partition(f" {relation} ")
        if found:
            groups = _group_of(first), _group_of(second)
            return Scene(groups[0], relation, groups[1]) if groups[0] and groups[1] else None
    group = _group_of(caption)
    return Scene(group) if group else None


def _group_of(text: str) -> Group | None:
    words = text.split()
    if len(words) != 3 or words[0] not in NUMBERS or words[1] not in COLOURS:
        return None
    count, shape = NUMBERS.index(words[0]) + 1, words[2].removesuffix("s")
    return Group(count, words[1], shape) if shape in SHAPES else None


def drawn(scene: Scene, take: int, side: int) -> np.ndarray:
    """One picture of a scene, uint8 (side, side, 3): places and widths follow from its caption and `take` alone."""
    generator = np.random.default_rng(derived_seed(0, str(scene), take))
    picture = np.full((side * FINE, side * FINE, 3), PAPER, np.float64)
    for group, box in zip(scene.groups, _boxes(scene), strict=True):
        for place in _places(group.count, box, generator):
            _draw(picture, group, place)
    fine = picture.reshape(side, FINE, side, FINE, 3).mean(axis=(1, 3))
    return fine.round().astype(np.uint8)


Box = tuple[float, float, float, float]  # top, left, bottom, right, as shares of the side


def _boxes(scene: Scene) -> list[Box]:
    """The part of the picture that each group lies in."""
    if scene.second is None:
        return [(0.0, 0.0, 1.0, 1.0)]
    axis, before = RELATIONS[scene.relation]
    halves = (
        [(0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)]
        if axis == 0
        else [(0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)]
    )
    return halves if before else halves[::-1]


def _places(count: int, box: Box, generator: np.random.Generator) -> list[tuple[float, float, float]]:
    """(row, column, width) of each shape: side by side along the longer side of the box, with paper between them."""
    top, left, bottom, right = box
    height, width = bottom - top, right - left
    across = width >= height
    slot = (width if across else height) / count
    low, high = WIDTHS[0], min(WIDTHS[1], slot - APART)
    found = []
    for number in range(count):
        size = generator.uniform(low, high)
        room, other_room = slot - size - APART, (height if across else width) - size - APART
        along = (left if across else top) + slot * (number + 0.5) + generator.uniform(-1, 1) * room / 2
        middle = (top + bottom) / 2 if across else (left + right) / 2
        other = middle + generator.uniform(-1, 1) * other_room / 2
        found.append((*((other, along) if across else (along, other)), size))
    return found


def _draw(picture: np.ndarray, group: Group, place: tuple[float, float, float]) -> None:
    """Lay one shape on a picture (S, S, 3)."""
    side = len(picture)
    row, column, width = (share * side for share in place)
    rows, columns = np.ogrid[:side, :side]
    picture[inside(group.shape, rows + 0.5 - row, columns + 0.5 - column, width / 2)] = COLOURS[group.colour]


def inside(shape: str, down: np.ndarray, across: np.ndarray, half: float) -> np.ndarray:
    """Which points lie in a shape of half this width; down, across: from the middle of its box."""
    if shape == "circle":
        return down**2 + across**2 <= half**2
    if shape == "square":
        return (np.abs(down) <= half * 0.9) & (np.abs(across) <= half * 0.9)
    return (np.abs(down) <= half) & (np.abs(across) <= (down + half) / 2)  # it stands on its side


def scenes(images: Images) -> Source:
    """Every caption's takes, in the order of captions; a caption and its mirror (`B below A`) are held out together."""
    found = list(all_scenes())
    rows = []
    for number, scene in enumerate(found):
        out = is_held_out(scene.arrangement, images.held_out)
        takes = TAKES * (1 if scene.second else 3)
        rows += [Row(f"{scene}:{take}", "scenes", take, number, out) for take in range(takes)]

    def read(wanted: list[Row]) -> Iterator[np.ndarray]:
        for row in wanted:
            yield drawn(found[row.label], row.row, images.image_size)

    return Source(tuple(map(str, found)), rows, read)
