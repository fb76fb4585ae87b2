"""Bits a dimension of held-out pictures, and what needs no training: a uniform code, PNG, what was published."""

import math
from typing import TYPE_CHECKING, Any

from pipeline.run.results import Score

if TYPE_CHECKING:
    import numpy as np

BITS = "bits per dimension"
PUBLISHED = {"Glow (published)": 2.96}  # of 8-bit Fashion-MNIST, 60,000 / 10,000 pictures


def bits_score(
    model: str, nats: Any, images: "np.ndarray", protocol: str, resamples: int, seed: int
) -> Score:
    """Nats of each picture, float64 (B,), as bits a dimension with their bootstrap interval over pictures."""
    import numpy as np

    from pipeline.scores.intervals import bootstrap_interval

    bits = np.asarray(nats) / (images[0].size * math.log(2))
    interval = bootstrap_interval(bits, np.ones(len(bits)), resamples, seed)
    said = f"{protocol}; 95% bootstrap interval over pictures"
    return Score(BITS, model, float(bits.mean()), interval, "bits/dim", len(bits), said, "lower")


def baselines(images: "np.ndarray", source: str, resamples: int, seed: int) -> list[Score]:
    """A uniform code, PNG as it is really written, and what was published for the same data."""
    import numpy as np

    from pipeline.scores.intervals import bootstrap_interval
    from recipes.common.images.sheet import file_sizes

    bits = 8 * file_sizes(images, "PNG") / images[0].size
    interval = bootstrap_interval(bits, np.ones(len(bits)), resamples, seed)
    uniform = "256 values of equal probability"
    files = "a file a picture, Pillow's optimize=True, headers included; 95% bootstrap interval over pictures"
    rows = [
        Score(BITS, "a uniform code", 8.0, None, "bits/dim", None, uniform, "lower"),
        Score(BITS, "PNG", float(bits.mean()), interval, "bits/dim", len(bits), files, "lower"),
    ]
    if source == "fashion_mnist" and images.shape[1:] == (28, 28, 1):
        protocol = "8-bit, 60,000 training and 10,000 test pictures; as published, not measured here"
        rows += [
            Score(BITS, name, value, None, "bits/dim", 10_000, protocol, "lower")
            for name, value in PUBLISHED.items()
        ]
    return rows
