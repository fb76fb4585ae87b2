"""Run in a fresh process: read pictures back from the file of stage `compression`, with the net that wrote it.

`python -m recipes.common.read_coded FAMILY TRAINED WEIGHTS FILE OUT.npy`: TRAINED holds nets.json and WEIGHTS.
"""

import importlib
import sys
from pathlib import Path

import numpy as np


def main(family: str, trained: Path, weights: str, file: Path, out: Path) -> None:
    codec, nets = (importlib.import_module(f"recipes.{family}.{name}") for name in ("codec", "nets"))
    images, _ = codec.decode(nets.load_net(trained, weights), file.read_bytes())
    np.save(out, images)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), Path(sys.argv[5]))
