"""A picture or a clip as a row that nobody has looked at yet, and a source of such rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from pipeline.data.rows import BadRow
from pipeline.run.errors import UserError, nearest

NO_LABEL = -1

# An encoded picture or clip, its values (a picture's uint8 (H, W, C)), or why there is none.
Content = bytes | np.ndarray | BadRow


class Located(Protocol):
    """A data section that says where its data is."""

    @property
    def source(self) -> str: ...

    @property
    def path(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Row:
    """A picture or a clip that nobody has looked at yet.

    row: of the file, counted from 0; None where it is the file.
    label: index into the source's classes, or NO_LABEL; wrong: why the label cannot be used.
    """

    key: str
    file: str
    row: int | None
    label: int
    held_out: bool
    wrong: str = ""


@dataclass(frozen=True)
class Source:
    """classes: names by label, () without labels; read: the contents of some of the rows, in their order.

    other_files: those that lie among them and are of another kind.
    """

    classes: tuple[str, ...]
    rows: list[Row]
    read: Callable[[list[Row]], Iterator[Content]]
    other_files: int = 0


def path_of(data: Located) -> Path:
    """The path of a source that needs one.

    Raises:
        UserError: it is not given, or nothing is there (the nearest name beside it is named).
    """
    if data.path is None:
        raise UserError(f"data.path is missing\nexpected: where to find the data of source {data.source}")
    path = Path(data.path).expanduser()
    if path.exists():
        return path
    siblings = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = nearest(path.name, siblings)[:300] if siblings else f"the folder {path.parent} is missing or empty"
    raise UserError(f"data.path: nothing at {path}\n{hint}")
