"""What needs no deep net to code a wave without loss: FLAC as it is really written, and a linear predictor.

T samples of a clip.
"""

import io
import math
from collections.abc import Iterable

import numpy as np

ORDER = 32  # samples before it that predict a sample
MEMORY = 0.98  # of the running mean of errors, about 50 samples
LEVELS = 65536
SCALES = tuple(
    2.0 ** (power / 4) for power in range(-8, 5)
)  # of the logistic over the running mean of errors
FLOORS = (0.25, 0.5, 1.0, 2.0)  # samples added to that mean


def flac_bits(clip_T: np.ndarray, rate: int) -> int:
    """Bits of a FLAC file of this int16 clip at the highest level of compression, headers included."""
    import soundfile

    written = io.BytesIO()
    soundfile.write(written, clip_T, rate, format="FLAC", subtype="PCM_16", compression_level=1.0)
    return 8 * len(written.getvalue())


class LinearPredictor:
    """A sample as a weighted sum of the ORDER before it, fitted by least squares to training clips.

    Its error follows a logistic whose scale is proportional to the running mean of the errors before it; that
    proportion is fitted too. Samples before a clip are silence.
    """

    def __init__(self, clips: Iterable[np.ndarray]):
        square, product, kept = np.zeros((ORDER, ORDER)), np.zeros(ORDER), []
        for clip in clips:
            before, now = _before(clip), clip.astype(float)
            square += before.T @ before
            product += before.T @ now
            kept.append(clip)
        ridge = 1e-6 * np.trace(square) / ORDER
        self.weights = np.linalg.solve(square + ridge * np.eye(ORDER), product)
        some = kept[:: max(1, len(kept) // 20)]
        ways = [(scale, floor) for scale in SCALES for floor in FLOORS]
        self.scale, self.floor = min(ways, key=lambda way: sum(self._nats(clip, *way) for clip in some))

    def bits(self, clip_T: np.ndarray) -> float:
        """-log2 of the probability of all samples of an int16 clip."""
        return self._nats(clip_T, self.scale, self.floor) / math.log(2)

    def _nats(self, clip_T: np.ndarray, scale: float, floor: float) -> float:
        import torch
        from scipy.signal import lfilter

        from recipes.common.logistic import logistic_log_prob

        predicted = _before(clip_T) @ self.weights
        errors = np.abs(clip_T - predicted)
        running = lfilter([1 - MEMORY], [1, -MEMORY], np.concatenate([[0.0], errors[:-1]]))
        spread = scale * (running + floor)
        half = (LEVELS - 1) / 2
        found = logistic_log_prob(
            torch.from_numpy(clip_T.astype(float) + LEVELS / 2),
            torch.from_numpy((predicted + LEVELS / 2) / half - 1),
            torch.from_numpy(np.log(spread / half)),
            LEVELS,
        )
        return -float(found.sum())


def _before(clip_T: np.ndarray) -> np.ndarray:
    """The ORDER samples before each, float64 (T, ORDER)."""
    padded = np.concatenate([np.zeros(ORDER), clip_T.astype(float)])
    return np.lib.stride_tricks.sliding_window_view(padded, ORDER)[:-1]
