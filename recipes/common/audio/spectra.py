"""How far a wave's spectra are from another's, and Griffin and Lim's wave of given mel frames.

B waves, T samples on [-1, 1), M mel bands, F frames.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SECONDS = (0.016, 0.032, 0.064)  # windows of the spectra that are compared
FLOOR = 1e-4  # magnitudes below it count as it: 80 dB below a sine at full scale
ITERATIONS, MOMENTUM = 60, 0.99


def stft_distance(made_BT: Tensor, real_BT: Tensor, rate: int) -> Tensor:
    """Mean over three windows of spectral convergence plus mean distance of log-magnitudes, (B,).

    arXiv:1910.11480, equations 4 to 6, with windows of the same duration at any rate, a quarter of it apart.
    """
    found = []
    for seconds in SECONDS:
        window = 2 * round(seconds * rate / 2)
        made, real = (_magnitudes(wave, window) for wave in (made_BT, real_BT))
        convergence = (real - made).flatten(1).norm(dim=1) / real.flatten(1).norm(dim=1)
        apart = (real.clamp(min=FLOOR).log() - made.clamp(min=FLOOR).log()).abs().flatten(1).mean(1)
        found.append(convergence + apart)
    return torch.stack(found).mean(0)


def _magnitudes(wave_BT: Tensor, window: int) -> Tensor:
    """A sine at full scale is 1."""
    hann = torch.hann_window(window, dtype=wave_BT.dtype)
    spectrum = torch.stft(wave_BT, window, window // 4, window=hann, return_complex=True)
    return spectrum.abs() / (window / 4)


def griffin_lim(log_mel_MF: Tensor, filters: Tensor, window: int, hop: int, length: int) -> np.ndarray:
    """A wave whose spectrum has these mel frames, fp32 (length,): the least-squares spectrum, its phase by turns.

    The fast variant of doi:10.1109/WASPAA.2013.6701851 of Griffin and Lim's algorithm (1984). Frame i is centred at
    sample i hop. filters: (window / 2 + 1, M).
    """
    magnitude = _spectrum_of(log_mel_MF.exp().double(), filters.double())
    hann = torch.hann_window(window, dtype=torch.float64)

    def wave_of(spectrum: Tensor) -> Tensor:
        return torch.istft(spectrum, window, hop, window=hann, length=(magnitude.shape[1] - 1) * hop)

    random = np.random.default_rng(0).uniform(0, 2 * np.pi, tuple(magnitude.shape))
    angles, before = torch.polar(torch.ones_like(magnitude), torch.from_numpy(random)), torch.zeros(())
    for _ in range(ITERATIONS):
        rebuilt = torch.stft(wave_of(magnitude * angles), window, hop, window=hann, return_complex=True)
        angles = torch.sgn(rebuilt - MOMENTUM / (1 + MOMENTUM) * before)
        before = rebuilt
    found = wave_of(magnitude * angles)[:length]
    return F.pad(found, (0, length - len(found))).float().numpy()


def _spectrum_of(mel_MF: Tensor, filters: Tensor, turns: int = 200) -> Tensor:
    """Magnitudes, none negative, whose mel frames are nearest (multiplicative updates of Lee and Seung 2001)."""
    spectrum = (filters @ mel_MF).clamp(min=1e-12)
    wanted, square = filters @ mel_MF, filters @ filters.T
    for _ in range(turns):
        spectrum = spectrum * wanted / (square @ spectrum).clamp(min=1e-12)
    return spectrum
