"""Waves by seed, sample by sample. Each sample costs one place of each layer, for what came before is kept in queues.

A part of the published file, as net.py is. B waves, T samples, C residual channels, K kernel, L layers, M mel bands,
F frames.
"""

import argparse
import json
import wave
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.common.chunks import in_chunks
from recipes.common.threads import one_thread
from recipes.wavenet.net import FULL_SCALE, Layer, WaveNet, features

CHUNK = 8  # waves generated at a time
WEIGHTS, NETS = "model.safetensors", "nets.json"

Sampler = Callable[[list[int], list[int]], np.ndarray]  # (seeds, labels) -> int16 (B, T)


class Queues:
    """The net on one place at a time: of each layer's input, the last `reach` places (arXiv:1611.09482).

    In numpy: each product below is some microseconds of arithmetic, and torch takes longer to begin it. What can be
    laid out once is laid out here. A sigmoid is a hyperbolic tangent, (tanh(x / 2) + 1) / 2, so one call has both
    halves of a gate; streams are kept without the biases that they carry, which are added where they are read.
    """

    def __init__(self, net: WaveNet, told: Tensor):
        """told: as net.told has it, from `before` places before the first sample on."""
        self.net, self.place = net, 0
        layers: list[Layer] = list(net.layers)  # type: ignore[arg-type]
        rows, width, length = len(told), net.channels, net.before + net.kernel - 1
        absent = torch.full((rows,), length, device=told.device)
        silence = features(torch.zeros(rows, length, dtype=torch.int16, device=told.device), absent)
        frames = told if told.shape[-1] == 1 else told[..., : net.before // net.mel.hop + 1]
        carried = [net.begin.bias, *(layer.onward.bias for layer in layers if layer.onward)]
        biases = torch.stack(carried).cumsum(0)  # (L, C): in the stream that each layer reads
        streams = zip(net.streams(silence, frames), biases, strict=True)
        self.kept = np.concatenate(
            [_last(stream - bias[:, None], layer.reach) for (layer, stream, _), bias in streams]
        )
        self.reaches = np.array([layer.reach for layer in layers])
        self.starts = self.reaches.cumsum() - self.reaches
        self.dilations = np.array([layer.dilation for layer in layers])
        halved = torch.ones(2 * width, device=told.device, dtype=told.dtype)
        halved[width:] = 0.5
        taps = torch.stack([layer.dilated.weight.permute(2, 1, 0) for layer in layers], 1)  # (K, L, C, 2 C)
        own = torch.stack([layer.dilated.bias for layer in layers]) + torch.einsum("klcd,lc->ld", taps, biases)
        self.told = _array(halved * (told.movedim(-1, 0).unflatten(2, own.shape) + own).transpose(1, 2))
        self.earlier = _array(halved * taps[:-1])
        self.streams = np.empty((len(layers), rows, width), self.kept.dtype)
        self.gated = np.empty((rows, len(layers) * width), self.kept.dtype)
        held = np.empty((rows, 2 * width), self.kept.dtype)
        self.gates = held, held[:, :width], held[:, width:]
        self.steps = [
            (
                self.streams[place],
                _array(halved * taps[-1, place]),
                self.gated[:, place * width : (place + 1) * width],
                _array(layer.onward.weight[..., 0].T / 2) if layer.onward else None,
                self.streams[place + 1] if layer.onward else None,
            )
            for place, layer in enumerate(layers)
        ]
        self.begin = _array(net.begin.weight.permute(2, 1, 0).flatten(0, 1))
        self.aside = _array(torch.cat([layer.aside.weight[..., 0] for layer in layers], 1).T / 2)
        self.aside_bias = _array(torch.stack([layer.aside.bias for layer in layers]).sum(0))
        self.ends = [(_array(part.weight[..., 0].T), _array(part.bias)) for part in (net.mix, net.head)]
        self.heard = _heard(told.dtype)
        newest = silence[..., length - net.kernel :].to(told.dtype)
        self.recent = _array(newest.transpose(1, 2).flatten(1))

    def numbers(self) -> np.ndarray:
        """(B, P) of the next sample."""
        told = self._told()
        for tap, products in enumerate(self.earlier):
            slots = self.starts + (self.place + tap * self.dilations) % self.reaches
            told = told + self.kept[slots] @ products
        np.matmul(self.recent, self.begin, out=self.streams[0])
        held, tangents, gates = self.gates
        for own, (stream, taps, gated, onward, following) in zip(told, self.steps, strict=True):
            np.matmul(stream, taps, out=held)
            held += own
            np.tanh(held, out=held)
            gates += 1
            np.multiply(tangents, gates, out=gated)
            if onward is not None:
                np.matmul(gated, onward, out=following)
                following += stream
        self.kept[self.starts + self.place % self.reaches] = self.streams
        found = self.gated @ self.aside + self.aside_bias
        for weight, bias in self.ends:
            found = np.maximum(found, 0) @ weight + bias
        return found

    def add(self, samples_B: np.ndarray) -> None:
        """Go on by one sample."""
        self.recent[:, :-3] = self.recent[:, 3:]
        self.recent[:, -3:] = self.heard[samples_B + FULL_SCALE]
        self.place += 1

    def _told(self) -> np.ndarray:
        """(L, B, 2 C): between the two frames around this place."""
        if len(self.told) == 1:
            return self.told[0]
        hop = self.net.mel.hop
        frame, after = divmod(self.net.before + self.place, hop)
        first, second = self.told[frame : frame + 2]
        return first + (second - first) * (after / hop)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy()


def _last(stream_BCT: Tensor, reach: int) -> np.ndarray:
    """(reach, B, C), oldest first: place t is found at t modulo `reach`."""
    return _array(stream_BCT[..., stream_BCT.shape[-1] - reach :].permute(2, 0, 1))


@cache
def _heard(dtype: torch.dtype) -> np.ndarray:
    """What the net sees of each of the 16-bit samples, (65536, 3)."""
    every = torch.arange(-FULL_SCALE, FULL_SCALE)[None]
    return _array(features(every, torch.zeros(1))[0].T.to(dtype))


@torch.no_grad()
def generated(net: WaveNet, labels_B: Tensor, coins_BT2: np.ndarray, mel_BMF: Tensor | None = None) -> np.ndarray:
    """int16 (B, T): each sample drawn given all before it, by two uniform numbers each.

    mel_BMF: what the sound is to be, as `mel_of_clips` has it.
    """
    queues = Queues(net, net.told(mel_BMF, labels_B))
    found = np.empty(coins_BT2.shape[:2], np.int16)
    samples_B = np.zeros(len(labels_B), np.int64)
    for place in range(coins_BT2.shape[1]):
        samples_B = net.sample.draw(queues.numbers(), coins_BT2[:, place], samples_B)
        found[:, place] = samples_B
        queues.add(samples_B)
    return found


def mel_of_clips(net: WaveNet, clips_BT: Tensor) -> Tensor:
    """(B, M, F) of int16 clips with silence around them: enough frames to generate T samples."""
    hop = net.mel.hop
    rest = -clips_BT.shape[1] % hop
    return net.mel(F.pad(clips_BT.float() / FULL_SCALE, (net.left, net.right + rest)))


def sampler_of(net: WaveNet, length: int, like: list[np.ndarray] | None = None) -> Sampler:
    """(seeds, labels) -> int16 (B, length). like: int16 clips whose mel frames the waves are to have, one a seed."""
    device = next(net.parameters()).device

    def draw(seeds: list[int], labels: list[int], places: list[int]) -> Tensor:
        mel = None
        if net.mel:
            clips = np.zeros((len(places), length), np.int16)
            for row, place in enumerate(places):
                clips[row, : len(like[place])] = like[place][:length]
            mel = mel_of_clips(net, torch.from_numpy(clips).to(device))
        coins = np.stack([coins_of(seed, length) for seed in seeds])
        return torch.from_numpy(generated(net, torch.tensor(labels, device=device), coins, mel))

    def sample(seeds: list[int], labels: list[int]) -> np.ndarray:
        with one_thread():  # matrices of some hundred rows lose by two
            return in_chunks(draw, seeds, labels, list(range(len(seeds))), size=CHUNK)

    return sample


def coins_of(seed: int, length: int) -> np.ndarray:
    """The uniform numbers that decide a wave, fp32 (length, 2)."""
    return np.random.Generator(np.random.PCG64(seed)).random((length, 2), np.float32)


def load(directory: Path) -> WaveNet:
    """The published net, from that directory alone."""
    from safetensors.torch import load_file

    net = WaveNet(**json.loads((directory / NETS).read_text())["net"])
    net.load_state_dict(load_file(directory / WEIGHTS))
    return net.eval().requires_grad_(False)


def read_wav(path: Path, rate: int) -> np.ndarray:
    """int16 (T,). Raises ValueError where it is not one channel of 16 bits at this rate."""
    with wave.open(str(path), "rb") as file:
        found = file.getnchannels(), file.getsampwidth(), file.getframerate()
        if found != (1, 2, rate):
            raise ValueError(f"{path} has (channels, bytes, rate) {found}, expected (1, 2, {rate})")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def write_wav(path: Path, samples_T: np.ndarray, rate: int) -> None:
    """One channel of 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples_T.astype("<i2").tobytes())


def main() -> None:
    """`python wavenet.py OUT.wav`: a wave by the model beside this file."""
    here = Path(__file__).parent
    net = load(here)
    classes = json.loads((here / NETS).read_text())["classes"]
    options = argparse.ArgumentParser(description="Generate a wave with the model beside this file.")
    options.add_argument("out", type=Path, metavar="OUT.wav")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--seconds", type=float, default=2.0)
    if classes:
        options.add_argument("--label", choices=classes, default=classes[0])
    if net.mel:
        options.add_argument(
            "--like", type=Path, required=True, metavar="IN.wav", help="the sound to be spoken anew"
        )
    given = options.parse_args()
    label = classes.index(given.label) if classes else 0
    like = [read_wav(given.like, net.sample_rate)] if net.mel else None
    length = len(like[0]) if like else round(given.seconds * net.sample_rate)
    (found,) = sampler_of(net, length, like)([given.seed], [label])
    write_wav(given.out, found, net.sample_rate)


if __name__ == "__main__":
    main()
