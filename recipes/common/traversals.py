"""`headwater explain` of generators: pictures along directions of the latent, as a page."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.run.errors import UserError, nearest
from recipes.common.drawn import check_new_page, trained_of

if TYPE_CHECKING:
    import numpy as np

DIRECTIONS = 8  # that are shown
STEPS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)  # along each, in standard deviations
STYLE = """
.way { display: flex; flex-wrap: wrap; gap: .3rem; margin: .2rem 0 1rem; }
.way figure { margin: 0; text-align: center; }
.way img { image-rendering: pixelated; width: 84px; height: 84px; display: block; }
figcaption { font-size: .72rem; color: var(--soft); }
"""


@dataclass(frozen=True)
class Direction:
    """title: what it is; pictures: uint8 (len(STEPS), H, W, C)."""

    title: str
    pictures: "np.ndarray"


def opened(output_dir: str, name: str, out: Path) -> tuple[Path, int]:
    """(the published `train` artifact, the label of class `name`; 0 for "").

    Raises:
        UserError: the net is not trained yet; `out` is there; no class of that name.
    """
    trained = trained_of(output_dir)
    check_new_page(out)
    classes = json.loads((Path(output_dir) / "prepare/classes.json").read_text("utf-8"))
    if not name:
        return trained, 0
    if name not in classes:
        hint = nearest(name, classes)[:300] if classes else "these pictures have no classes: ''"
        raise UserError(f"no class {name!r}\n{hint}")
    return trained, classes.index(name)


def write_page(title: str, told: str, directions: list[Direction], out: Path) -> None:
    """A row a direction, from STEPS' first to its last."""
    from pipeline.publish.html.element import element, page
    from pipeline.publish.html.style import STYLE as HOUSE
    from recipes.common.images.figures import figure

    parts = []
    for direction in directions:
        shown = [figure(one, f"{step:+g}") for one, step in zip(direction.pictures, STEPS, strict=True)]
        parts += [element("h2", direction.title), element("div", *shown, class_="way")]
    out.parent.mkdir(parents=True, exist_ok=True)
    body = page(title, HOUSE + STYLE, element("h1", title), element("p", told), *parts)
    out.write_text(body, "utf-8")
