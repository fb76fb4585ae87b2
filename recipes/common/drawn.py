"""What the verbs that use a finished run share: the run is there, what they write is new, a file a picture, a sheet."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.run.errors import UserError

if TYPE_CHECKING:
    import numpy as np


def trained_of(output_dir: str) -> Path:
    """The published `train` artifact of a run. Raises UserError where it is not made yet."""
    trained = Path(output_dir) / "train"
    if not (trained / "artifact.json").is_file():
        raise UserError(f"{trained} is not there yet\nway out: headwater run, to its end")
    return trained


def check_new_folder(out: Path) -> None:
    """Raises UserError where `out` holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already\nexpected: a new folder, or an empty one")


def check_new_page(out: Path) -> None:
    """Raises UserError where `out` is there."""
    if out.exists():
        raise UserError(f"{out} is there already\nexpected: a new file, such as explained.html")


def write_pictures(pictures: "np.ndarray", numbers: Sequence[int], out: Path) -> None:
    """OUT/NUMBER.png of each picture uint8 (N, H, W, C), and sheet.png with all of them."""
    from recipes.common.images.sheet import encoded, save_sheet

    out.mkdir(parents=True, exist_ok=True)
    for number, picture in zip(numbers, pictures, strict=True):
        (out / f"{number}.png").write_bytes(encoded(picture, "PNG"))
    save_sheet(pictures, out / "sheet.png")
