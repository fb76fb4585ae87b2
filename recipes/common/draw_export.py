"""Run in a fresh process: draw the pictures that an exported directory says it draws, from that directory alone.

`python -m recipes.common.draw_export FAMILY DIRECTORY OUT.npy`
"""

import importlib
import sys
from pathlib import Path

import numpy as np

from recipes.common.export import request_of


def main(family: str, directory: Path, out: Path) -> None:
    sampler = importlib.import_module(f"recipes.{family}.exported").load(directory)
    np.save(out, sampler(*request_of(directory)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
