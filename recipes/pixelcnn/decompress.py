"""Run in a fresh process: read pictures back from the file of stage `compression`, with the net that wrote it.

`python -m recipes.pixelcnn.decompress TRAINED WEIGHTS FILE OUT.npy`: TRAINED holds nets.json and WEIGHTS.
"""

import sys
from pathlib import Path

import numpy as np

from recipes.pixelcnn.codec import decode
from recipes.pixelcnn.nets import load_net


def main(trained: Path, weights: str, file: Path, out: Path) -> None:
    images, _ = decode(load_net(trained, weights), file.read_bytes())
    np.save(out, images)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
