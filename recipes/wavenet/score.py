"""The likelihood of clips, clip by clip, and clips generated again from their mel frames."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.train.recipe import stacked
from recipes.common.audio.dataset import PreparedAudio, Segments
from recipes.common.audio.decode import to_int16
from recipes.common.audio.spectra import griffin_lim, stft_distance
from recipes.wavenet.generate import mel_of_clips, sampler_of
from recipes.wavenet.net import FULL_SCALE, MuLaw, WaveNet, mu_law

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 16  # segments a forward


@torch.no_grad()
def nats_of(net: WaveNet, audio: PreparedAudio, clips: int, segment: int) -> np.ndarray:
    """-log p(clip given its label and its mel frames), nats, float64 (clips,), of the first clips."""
    split = Segments(audio, segment, net.left, net.right, None)
    found = np.zeros(clips)
    rows = np.flatnonzero(split.clips < clips)
    for begin in range(0, len(rows), CHUNK):
        part = rows[begin : begin + CHUNK]
        items = [split.item(int(row)) for row in part]
        batch = stacked(items)
        log_prob_BT = net(batch["wave"], batch["absent"], batch["label"]).double().numpy()
        for row, log_prob_T, item in zip(part, log_prob_BT, items, strict=True):
            found[split.clips[row]] -= log_prob_T[: item["length"]].sum()
    return found


def vocoded(net: WaveNet, clips: list[np.ndarray], labels: list[int]) -> dict[str, list[np.ndarray]]:
    """Each int16 clip again: by the net, by Griffin and Lim from the same frames, and through 256 codes alone."""
    length = max(map(len, clips))
    made = sampler_of(net, length, clips)(list(range(len(clips))), labels)
    ways = {
        "WaveNet": [wave[: len(clip)] for wave, clip in zip(made, clips, strict=True)],
        "Griffin-Lim": [griffin_lim_of(net, clip) for clip in clips],
    }
    if isinstance(net.sample, MuLaw):
        ways["the clip in 256 codes"] = [_coded(clip, net.sample.samples) for clip in clips]
    return ways


def griffin_lim_of(net: WaveNet, clip_T: np.ndarray) -> np.ndarray:
    """int16 (T,), from the frames that the net would be told."""
    mel = net.mel
    first = (net.left - mel.size // 2) // mel.hop  # frames that stand before the clip
    frames = mel_of_clips(net, torch.from_numpy(clip_T.copy())[None])[0, :, first:]
    wave = griffin_lim(frames, mel.filters, mel.size, mel.hop, len(clip_T))
    return to_int16(wave)


def distances(made: list[np.ndarray], clips: list[np.ndarray], rate: int) -> np.ndarray:
    """stft_distance of each wave to its clip, float64 (N,)."""
    pairs = zip(made, clips, strict=True)
    return np.array([float(stft_distance(_unit(wave), _unit(clip), rate)) for wave, clip in pairs])


def _unit(wave_T: np.ndarray) -> "Tensor":
    return torch.from_numpy(wave_T.astype(np.float64) / FULL_SCALE)[None]


def _coded(clip_T: np.ndarray, samples: np.ndarray) -> np.ndarray:
    return samples[mu_law(torch.from_numpy(clip_T.astype(np.int64))).numpy()].astype(np.int16)
