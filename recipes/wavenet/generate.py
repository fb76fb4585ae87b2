"""Waves by seed, sample by sample. Each sample costs one place of each layer, for what came before is kept in queues.

A part of the published file, as net.py is. B waves, T samples, C residual channels, K kernel, L layers, M mel bands,
F frames.
"""

import argparse
import json
import wave
from collections.abc import Callable
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

    Each product below is some microseconds of arithmetic, so what can be laid out once is laid out here.
    """

    def __init__(self, net: WaveNet, told: Tensor):
        """told: as net.told has it, from `before` places before the first sample on."""
        self.net, self.place = net, 0
        layers: list[Layer] = list(net.layers)  # type: ignore[arg-type]
        length = net.before + net.kernel - 1
        absent = torch.full((len(told),), length, device=told.device)
        silence = features(torch.zeros(len(told), length, dtype=torch.int16, device=told.device), absent)
        frames = told if told.shape[-1] == 1 else told[..., : net.before // net.mel.hop + 1]
        self.kept = [_last(stream, layer.reach) for layer, stream, _ in net.streams(silence, frames)]
        self.recent = silence[..., : net.kernel].to(told.dtype)
        self.none = torch.zeros_like(absent)
        biases = torch.cat([layer.dilated.bias for layer in layers])
        self.told = (told + biases[:, None]).movedim(-1, 0).contiguous()
        self.steps = [
            (
                layer.reach,
                layer.dilation,
                layer.dilated.weight.permute(2, 1, 0).flatten(0, 1).contiguous(),
                layer.onward and layer.onward.weight[..., 0].T.contiguous(),
                layer.onward and layer.onward.bias,
            )
            for layer in layers
        ]
        self.aside = torch.cat([layer.aside.weight[..., 0] for layer in layers], 1).T.contiguous()
        self.aside_bias = torch.stack([layer.aside.bias for layer in layers]).sum(0)

    def numbers(self) -> Tensor:
        """(B, P) of the next sample."""
        net, place, outputs = self.net, self.place, []
        stream = F.linear(self.recent.flatten(1), net.begin.weight.flatten(1), net.begin.bias)
        told = self._told().chunk(len(self.steps), 1)
        for kept, own, (reach, dilation, taps, onward, bias) in zip(self.kept, told, self.steps, strict=True):
            seen = [kept[(place + back) % reach] for back in range(0, reach, dilation)]
            kept[place % reach] = stream
            tangent, gate = torch.addmm(own, torch.cat([*seen, stream], 1), taps).chunk(2, 1)
            gated = tangent.tanh() * gate.sigmoid()
            outputs.append(gated)
            if onward is not None:
                stream = torch.addmm(stream, gated, onward) + bias
        skips = torch.addmm(self.aside_bias, torch.cat(outputs, 1), self.aside)
        mixed = F.linear(F.relu(skips), net.mix.weight[..., 0], net.mix.bias)
        return F.linear(F.relu(mixed), net.head.weight[..., 0], net.head.bias)

    def add(self, samples_B: Tensor) -> None:
        """Go on by one sample."""
        newest = features(samples_B[:, None], self.none).to(self.recent.dtype)
        self.recent = torch.cat([self.recent[..., 1:], newest], -1)
        self.place += 1

    def _told(self) -> Tensor:
        """Between the two frames around this place."""
        if len(self.told) == 1:
            return self.told[0]
        hop = self.net.mel.hop
        frame, after = divmod(self.net.before + self.place, hop)
        return torch.lerp(self.told[frame], self.told[frame + 1], after / hop)


def _last(stream_BCT: Tensor, reach: int) -> list[Tensor]:
    """The last places of a stream, oldest first: place t is found at t modulo `reach`."""
    return list(stream_BCT[..., stream_BCT.shape[-1] - reach :].permute(2, 0, 1).contiguous().unbind())


@torch.no_grad()
def generated(net: WaveNet, labels_B: Tensor, coins_BT2: Tensor, mel_BMF: Tensor | None = None) -> Tensor:
    """int16 (B, T): each sample drawn given all before it, by two uniform numbers each.

    mel_BMF: what the sound is to be, as `mel_of_clips` has it.
    """
    queues = Queues(net, net.told(mel_BMF, labels_B))
    found = torch.empty(coins_BT2.shape[:2], dtype=torch.int16, device=coins_BT2.device)
    samples_B = torch.zeros_like(labels_B)
    for place, coins_B2 in enumerate(coins_BT2.unbind(1)):
        samples_B = net.sample.draw(queues.numbers(), coins_B2, samples_B)
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
        coins = torch.from_numpy(np.stack([coins_of(seed, length) for seed in seeds]))
        return generated(net, torch.tensor(labels, device=device), coins.to(device), mel)

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
