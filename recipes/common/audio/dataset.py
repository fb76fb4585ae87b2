"""A prepared split of clips, memory-mapped, and its segments with what stands before and after them.

N clips, T samples of a clip.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.order import Order


@dataclass(frozen=True)
class PreparedAudio:
    """One split of a published `prepare` artifact. Its first n clips are a fair draw: they lie in hashed order.

    samples: int16, all clips one after the other, read from the file as they are asked for; clip i is
    samples[offsets[i] : offsets[i + 1]].
    labels: int64 (N,); -1 everywhere where there are no labels.
    classes: names, by label; () where there are no labels. keys: what each clip is called in its source.
    """

    samples: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    keys: tuple[str, ...]

    @classmethod
    def open(cls, directory: Path, split: str) -> "PreparedAudio":
        """The split `train` or `held_out` of the artifact in `directory`."""
        return cls(
            np.asarray(np.load(directory / f"{split}.samples.npy", mmap_mode="r")),
            np.load(directory / f"{split}.offsets.npy"),
            np.load(directory / f"{split}.labels.npy"),
            tuple(json.loads((directory / "classes.json").read_text())),
            tuple(json.loads((directory / f"{split}.keys.json").read_text())),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def clip(self, number: int) -> np.ndarray:
        """Samples int16 (T,)."""
        return self.samples[self.offsets[number] : self.offsets[number + 1]]


def around(clip_T: np.ndarray, start: int, length: int) -> np.ndarray:
    """`length` samples from `start` on, which may be negative; silence stands before and after the clip."""
    found = np.zeros(length, np.int16)
    begin, end = max(0, start), min(len(clip_T), start + length)
    if begin < end:
        found[begin - start : end - start] = clip_T[begin:end]
    return found


class Segments:
    """Implements pipeline.train.recipe.Split: every sample of every clip once an epoch, in segments of one length.

    An item is {"wave": int16 (left + size + right,), "absent", "length", "label": int64 ()}: the segment with what
    stands before and after it in its clip. Its first `absent` samples are before the clip's beginning; `length` samples
    of the segment itself are real, fewer than `size` at a clip's end.
    seed: of the order; None: in stored order, over and over.
    """

    def __init__(self, audio: PreparedAudio, size: int, left: int, right: int, seed: int | None):
        self.audio, self.size, self.left, self.right = audio, size, left, right
        lengths = np.diff(audio.offsets)
        counts = -(-lengths // size)
        self.clips = np.repeat(np.arange(len(lengths)), counts)
        self.starts = size * (np.arange(len(self.clips)) - np.repeat(np.cumsum(counts) - counts, counts))
        self.length = len(self.clips)
        self._order = Order(seed, self.length)

    def item(self, index: int) -> dict[str, np.ndarray]:
        """Segment `index`, which counts on over the epochs."""
        row = self._order.row(index)
        number, start = int(self.clips[row]), int(self.starts[row])
        clip = self.audio.clip(number)
        wave = around(clip, start - self.left, self.left + self.size + self.right)
        length = min(self.size, len(clip) - start)
        return {
            "wave": wave,
            "absent": np.array(max(0, self.left - start)),
            "length": np.array(length),
            "label": np.array(self.audio.labels[number]),
        }
