"""WaveNet (arXiv:1609.03499): each sample of a wave given all before it, and what the sound is to be.

This file builds the net, says how probable a wave is and generates one; it imports torch and numpy alone and is
published with the weights.

B waves, T samples, C residual channels, K kernel, S skip channels, P numbers of a sample's distribution, M mel bands,
F frames, L layers. Place t of a stream predicts sample t: its input is sample t - 1.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.common.logistic import logistic_log_prob

FULL_SCALE = 32768  # int16 samples are on [-1, 1) when divided by it
LEVELS = 65536  # of a 16-bit sample
MU = 255
NARROWEST = -11.0  # of logistics: half of one of the 65,535 steps between samples
GAINS = (16, 4)  # of the two inputs
LOG_FLOOR = 1e-5  # magnitudes of mel bands below it count as it


class MuLaw(nn.Module):
    """A probability for each of 256 companded codes (section 2.2); the samples of a code are equally probable."""

    numbers = 256

    def __init__(self) -> None:
        super().__init__()
        values = np.arange(-FULL_SCALE, FULL_SCALE)
        codes = mu_law(torch.from_numpy(values)).numpy()
        counts = np.bincount(codes, minlength=256)
        self.samples = np.round(np.bincount(codes, values) / counts).astype(np.int64)
        # torch.tensor, not from_numpy: a net that is made without memory has none here either.
        self.register_buffer(
            "log_counts", torch.tensor(np.log(counts), dtype=torch.float32), persistent=False
        )

    def log_prob(self, numbers_BPT: Tensor, samples_BT: Tensor, before_BT: Tensor) -> Tensor:
        """Natural logarithm of each 16-bit sample's probability, fp32 (B, T). before: the sample before each."""
        codes_BT = mu_law(samples_BT)
        # As rows: on a GPU, the loss of a table of two dimensions has no backward that adds up in one order.
        rows_NP = numbers_BPT.float().transpose(1, 2).flatten(0, 1)
        nats_N = F.cross_entropy(rows_NP, codes_BT.flatten(), reduction="none")
        return -nats_N.view_as(codes_BT) - self.log_counts[codes_BT]

    def draw(self, numbers_BP: np.ndarray, uniform_B2: np.ndarray, before_B: np.ndarray) -> np.ndarray:
        """Samples int64 (B,) by the inverse of the distribution function: of a code, the mean of its samples."""
        sums_BP = np.exp(numbers_BP - numbers_BP.max(1, keepdims=True)).cumsum(1, np.float64)
        reached = sums_BP <= uniform_B2[:, :1] * sums_BP[:, -1:]
        return self.samples[np.minimum(reached.sum(1), 255)]


class LogisticMixture(nn.Module):
    """Discretised logistics over the 65,536 values of a sample (arXiv:1711.10433, section 2.1).

    Their means are told from the sample before on: a net need not learn that neighbours are alike.
    """

    def __init__(self, mixtures: int) -> None:
        super().__init__()
        self.numbers = 3 * mixtures

    def log_prob(self, numbers_BPT: Tensor, samples_BT: Tensor, before_BT: Tensor) -> Tensor:
        """As MuLaw."""
        logits, centres, log_scales = self._split(numbers_BPT, before_BT)
        values = (samples_BT[:, None] + FULL_SCALE).float()
        return torch.logsumexp(
            F.log_softmax(logits, 1) + logistic_log_prob(values, centres, log_scales, LEVELS), 1
        )

    def draw(self, numbers_BP: np.ndarray, uniform_B2: np.ndarray, before_B: np.ndarray) -> np.ndarray:
        """As MuLaw: the first uniform number chooses the logistic, the second the sample."""
        logits, centres, log_scales = np.split(numbers_BP.astype(np.float64), 3, 1)
        sums = np.exp(logits - logits.max(1, keepdims=True)).cumsum(1)
        reached = sums <= uniform_B2[:, :1] * sums[:, -1:]
        rows, chosen = np.arange(len(sums)), np.minimum(reached.sum(1), sums.shape[1] - 1)
        coin = uniform_B2[:, 1].astype(np.float64).clip(2.0**-25, 1 - 2.0**-24)
        scale = np.exp(np.maximum(log_scales[rows, chosen], NARROWEST))
        found = centres[rows, chosen] + before_B / FULL_SCALE + scale * np.log(coin / (1 - coin))
        values = np.round((found + 1) * ((LEVELS - 1) / 2)).clip(0, LEVELS - 1)
        return values.astype(np.int64) - FULL_SCALE

    def _split(self, numbers: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, centres, log_scales = (numbers if numbers.dtype == torch.float64 else numbers.float()).chunk(
            3, 1
        )
        return logits, centres + before[:, None] / FULL_SCALE, log_scales.clamp(min=NARROWEST)


class Mel(nn.Module):
    """Log-magnitudes in bands as wide as the ear's (HTK's mel scale), one frame every `hop` samples.

    filters: (frequencies, M).
    """

    def __init__(self, sample_rate: int, bands: int, window: int, hop: int) -> None:
        super().__init__()
        self.bands, self.size, self.hop = bands, window, hop
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.register_buffer("filters", mel_filters(sample_rate, bands, window), persistent=False)

    def forward(self, wave_BT: Tensor) -> Tensor:
        """Samples on [-1, 1) -> (B, M, F): frame i is centred at sample window / 2 + i hop."""
        spectrum = torch.stft(
            wave_BT.float(), self.size, self.hop, window=self.window, center=False, return_complex=True
        )
        return (self.filters.T @ spectrum.abs()).clamp(min=LOG_FLOOR).log()


def mel_filters(sample_rate: int, bands: int, window: int) -> Tensor:
    """Triangles of equal width in mel, each as high as 1, fp32 (window / 2 + 1, bands)."""
    edges_mel = np.linspace(0, 2595 * np.log10(1 + sample_rate / 2 / 700), bands + 2)
    edges = 700 * (10 ** (edges_mel / 2595) - 1)
    frequencies = np.linspace(0, sample_rate / 2, window // 2 + 1)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return torch.tensor(np.maximum(0, np.minimum(rising, falling)), dtype=torch.float32)


class Layer(nn.Module):
    """A dilated causal convolution, gated, whose output goes on to the next layer, if any, and aside (section 2.3)."""

    def __init__(self, channels: int, skip_channels: int, kernel: int, dilation: int, last: bool) -> None:
        super().__init__()
        self.dilation = dilation
        self.reach = (kernel - 1) * dilation  # places before its own that a place looks at
        self.dilated = nn.Conv1d(channels, 2 * channels, kernel, dilation=dilation)
        self.onward = None if last else nn.Conv1d(channels, channels, 1)
        self.aside = nn.Conv1d(channels, skip_channels, 1)


class WaveNet(nn.Module):
    """The net.

    receptive_field: how many samples before it decide a sample. before: as many in whole frames: the places that are
    computed before a segment. left, right: samples that `forward` wants before and after a segment.
    """

    def __init__(
        self,
        sample_rate: int,
        channels: int,
        skip_channels: int,
        stacks: int,
        layers: int,
        kernel: int,
        likelihood: str,
        mixtures: int,
        classes: int,
        mel: dict[str, int] | None,
    ) -> None:
        super().__init__()
        self.sample_rate, self.kernel, self.channels = sample_rate, kernel, channels
        dilations = [2**place for place in range(layers)] * stacks
        count = len(dilations)
        self.layers = nn.ModuleList(
            Layer(channels, skip_channels, kernel, each, place == count - 1)
            for place, each in enumerate(dilations)
        )
        self.receptive_field = kernel + sum(layer.reach for layer in self.layers)
        self.begin = nn.Conv1d(3, channels, kernel)
        self.label = nn.Embedding(classes, 2 * channels * count) if classes else None
        self.mel = Mel(sample_rate, **mel) if mel else None
        if self.mel:
            self.frames = nn.Conv1d(self.mel.bands, 2 * channels, 3)
            self.local = nn.Conv1d(2 * channels, 2 * channels * count, 1, bias=False)
        self.sample = MuLaw() if likelihood == "mu_law" else LogisticMixture(mixtures)
        self.mix = nn.Conv1d(skip_channels, skip_channels, 1)
        self.head = nn.Conv1d(skip_channels, self.sample.numbers, 1)
        hop = self.mel.hop if self.mel else 1
        self.before = math.ceil(self.receptive_field / hop) * hop
        self.right = hop + self.mel.size // 2 if self.mel else 0
        self.left = self.before + (self.right if self.mel else kernel)
        self._start()

    def _start(self) -> None:
        """Labels make no difference at first, and logistics are spread over the range."""
        if self.label:
            nn.init.zeros_(self.label.weight)
        if isinstance(self.sample, LogisticMixture):
            mixtures = self.sample.numbers // 3
            centres = [0.2 * (place + 0.5) / mixtures - 0.1 for place in range(mixtures)]
            start = torch.tensor([0.0] * mixtures + centres + [-3.0] * mixtures)
            with torch.no_grad():
                self.head.bias.copy_(start.to(self.head.bias.device))

    def forward(self, wave_BT: Tensor, absent_B: Tensor, labels_B: Tensor) -> Tensor:
        """Natural logarithm of the probability of each sample of a segment, fp32 (B, segment).

        wave_BT: int16, left + segment + right samples. A segment begins a whole number of hops after its clip does, and
        is one long. absent_B: how many of the first samples stand before the clip's beginning.
        """
        segment = wave_BT.shape[1] - self.left - self.right
        samples_BT = wave_BT[:, self.left : self.left + segment].long()
        first = self.left - self.before - self.kernel
        inputs_BT = wave_BT[:, first : self.left + segment - 1]
        told = self.told(self.mel(wave_BT.float() / FULL_SCALE) if self.mel else None, labels_B)
        numbers_BPT = self.numbers(features(inputs_BT, absent_B - first), told, segment)
        return self.sample.log_prob(numbers_BPT, samples_BT, inputs_BT[:, -segment:].long())

    def told(self, mel_BMF: Tensor | None, labels_B: Tensor) -> Tensor:
        """What the gates of all layers are told: (B, L 2 C, frames), or one frame where it is the same throughout.

        The projection to the layers comes before frames are interpolated: linear as both are, the order is the same.
        """
        width = 2 * self.channels * len(self.layers)
        told = self.head.weight.new_zeros(len(labels_B), width, 1)
        if self.label:
            told = told + self.label(labels_B)[..., None]
        if mel_BMF is not None:
            told = told + self.local(F.relu(self.frames(mel_BMF - math.log(LOG_FLOOR))))
        return told

    def numbers(self, inputs_B3T: Tensor, told: Tensor, wanted: int) -> Tensor:
        """(B, P, wanted) of the last places, given features from `before` + kernel places before them on."""
        aside = [layer.aside(gated[..., -wanted:]) for layer, _, gated in self.streams(inputs_B3T, told)]
        with torch.autocast(told.device.type, enabled=False):  # bf16 would round what 16 bits tell apart
            return self.head(F.relu(self.mix(F.relu(sum(aside)).to(self.mix.weight.dtype))))

    def streams(self, inputs_B3T: Tensor, told: Tensor) -> Iterator[tuple[Layer, Tensor, Tensor]]:
        """Each layer with what goes into it and its gated output, (B, C, places): what is not there is not padded."""
        stream = self.begin(inputs_B3T.to(self.begin.weight.dtype))
        for layer, own in zip(self.layers, told.chunk(len(self.layers), 1), strict=True):
            convolved = layer.dilated(stream)
            tangent, gate = (convolved + self.spread(own)[..., -convolved.shape[-1] :]).chunk(2, 1)
            gated = tangent.tanh() * gate.sigmoid()
            yield layer, stream, gated
            if layer.onward:
                stream = stream[..., layer.reach :] + layer.onward(gated)

    def spread(self, told_BCF: Tensor) -> Tensor:
        """Frames to places by linear interpolation: (B, C, F) -> (B, C, (F - 1) hop); one frame stays one."""
        if told_BCF.shape[-1] == 1:
            return told_BCF
        assert self.mel is not None
        weights = torch.arange(self.mel.hop, device=told_BCF.device, dtype=told_BCF.dtype) / self.mel.hop
        return torch.lerp(told_BCF[..., :-1, None], told_BCF[..., 1:, None], weights).flatten(-2)


def features(wave_BT: Tensor, absent_B: Tensor) -> Tensor:
    """int16 samples as the net sees them, fp32 (B, 3, T).

    As they are; companded, so that quiet ones tell; and whether a sample stands before the beginning, as the first
    `absent` do: silence before a sound is not silence after it. GAINS bring a usual recording to a variance of about 1:
    on speech at 8 kHz the net of speech.yaml had 10.2 bits a sample after 362 steps without, 9.4 after 296 with them.
    """
    on_unit = wave_BT.float() / FULL_SCALE
    absent_BT = torch.arange(wave_BT.shape[1], device=wave_BT.device) < absent_B[:, None]
    return torch.stack([GAINS[0] * on_unit, GAINS[1] * companded(on_unit), absent_BT.float()], 1)


def companded(wave: Tensor) -> Tensor:
    """Samples on [-1, 1) -> on [-1, 1], quiet ones further apart (ITU-T G.711's formula, section 2.2)."""
    return wave.sign() * torch.log1p(MU * wave.abs()) / math.log1p(MU)


def mu_law(samples: Tensor) -> Tensor:
    """int16 samples -> codes 0 to 255, int64."""
    on_unit = (companded(samples.double() / FULL_SCALE) + 1) / 2
    return (on_unit * (MU + 1)).floor().clamp(0, MU).long()
