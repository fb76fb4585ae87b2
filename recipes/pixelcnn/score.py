"""The likelihood of pictures, picture by picture."""

import numpy as np
import torch

from recipes.pixelcnn.net import PixelNet

CHUNK = 100  # pictures a forward


@torch.no_grad()
def nats_of(net: PixelNet, images_BSSC: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    """-log p(picture given its label), nats, float64 (B,)."""
    device = next(net.parameters()).device
    found = []
    for begin in range(0, len(images_BSSC), CHUNK):
        part = slice(begin, begin + CHUNK)
        images, labels = (
            torch.from_numpy(np.array(images_BSSC[part])),
            torch.from_numpy(np.array(labels_B[part])),
        )
        found.append(-net(images.to(device), labels.to(device)).double().cpu())
    return torch.cat(found).numpy()


def marginal_nats_of(net: PixelNet, images_BSSC: np.ndarray, labels: list[int]) -> np.ndarray:
    """-log p(picture), nats, float64 (B,): the mean over these labels, which are equally probable."""
    each = [nats_of(net, images_BSSC, np.full(len(images_BSSC), label)) for label in labels]
    return np.log(len(labels)) - np.logaddexp.reduce(-np.stack(each), axis=0)
