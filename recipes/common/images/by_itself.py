"""The command of a published file of pictures: it draws with the weights beside it, and no package of ours."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np


def draw(load: Callable[[Path], Callable[[list[int], list[int]], np.ndarray]]) -> None:
    """`python FILE OUT.png`: pictures in a row. load: (directory) -> sampler of (seeds, labels)."""
    from PIL import Image

    here = Path(__file__).parent
    options = argparse.ArgumentParser(description="Draw pictures with the model beside this file.")
    options.add_argument("out", type=Path, metavar="OUT.png")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], metavar="SEED")
    options.add_argument(
        "--labels", type=int, nargs="+", metavar="NUMBER", help="classes by number, one a seed; default: in turn"
    )
    given = options.parse_args()
    classes = json.loads((here / "pictures.json").read_text())["classes"]
    labels = given.labels or [place % max(1, len(classes)) for place in range(len(given.seeds))]
    if len(labels) != len(given.seeds):
        options.error(f"{len(given.seeds)} seeds and {len(labels)} labels: as many of both")
    if classes and not all(0 <= label < len(classes) for label in labels):
        options.error(f"a label is one of 0 to {len(classes) - 1}: {', '.join(classes[:20])}")
    row = np.concatenate(list(load(here)(given.seeds, labels)), axis=1)
    Image.fromarray(row[..., 0] if row.shape[-1] == 1 else row).save(given.out)
