"""Lossless coding of pictures by bits back (arXiv:1901.04866): the bits that pick a latent come out of the message.

Encoder and decoder must build the same tables from floating-point numbers. Both therefore run one picture at a time on
one thread in fp32, through the same operations in the same order; what a net gives is rounded before a table is built
from it, so that a last bit of rounding rarely decides; from there on all is integers. That holds on one build of torch
and one kind of processor: the file names both, and its checksum tells where it did not hold.

S pixels a side, C channels, N latents of a picture, n symbols coded together.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.train.seeds import derived_seed
from recipes.common.coded import decoded, with_header
from recipes.common.rans import PRECISION, SLOTS, Message, pieces, pop_table, push_table, table
from recipes.common.threads import one_thread
from recipes.vae.ladder import Ladder
from recipes.vae.likelihoods import Likelihood

LANES = 128  # states; each costs four bytes of the whole message
BUCKET_BITS = 12  # log2 of the buckets of equal mass under the prior that a latent is one of
BUCKETS = 1 << BUCKET_BITS
GRID = 2.0**-10  # to which means, scales and the likelihood's numbers are rounded
WIDTH = SLOTS // BUCKETS  # slots of a bucket under the prior
FREE = SLOTS - BUCKETS  # slots shared out by mass, after each bucket has one


def encode(net: Ladder, images_BSSC: np.ndarray, labels_B: np.ndarray) -> bytes:
    """A file: a line of JSON, then the message."""
    message = Message(LANES, _first_words(net.latents))
    with one_thread(), torch.no_grad():
        for place, (image, label) in enumerate(zip(images_BSSC, labels_B, strict=True)):
            _push_picture(message, net, np.array(image), int(label), _turns(net, place))
    return with_header(images_BSSC, message.to_bytes())


def decode(net: Ladder, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (B, S, S, C) and labels int64 (B,) of a file. Raises as recipes.common.coded.decoded."""

    def pop(message: Message, count: int) -> tuple[np.ndarray, np.ndarray]:
        pairs = [_pop_picture(message, net, _turns(net, place)) for place in reversed(range(count))]
        return np.stack([image for image, _ in pairs[::-1]]), np.array([label for _, label in pairs[::-1]])

    return decoded(content, LANES, pop)


def _push_picture(
    message: Message, net: Ladder, image_SSC: np.ndarray, label: int, turns: list[np.ndarray]
) -> None:
    """Pop latents from the posterior, then push pixels given them, the latents under the prior, and the class."""
    labels = torch.tensor([label])
    buckets: list[np.ndarray] = []

    def pop_group(mean: np.ndarray, log_std: np.ndarray) -> np.ndarray:
        buckets.append(_pop_posterior(message, mean, log_std, turns[len(buckets)]))
        return buckets[-1]

    numbers = _top_down(net, image_SSC, labels, pop_group)
    push_table(message, _flat(image_SSC), _pixel_table(net.likelihood, numbers))
    _push_prior(message, np.concatenate(buckets))
    _push_label(message, net, label)


def _pop_picture(message: Message, net: Ladder, turns: list[np.ndarray]) -> tuple[np.ndarray, int]:
    """The inverse of _push_picture: the bits that had picked the latents go back."""
    label = _pop_label(message, net)
    buckets_N = _pop_prior(message, net.latents)
    labels = torch.tensor([label])
    numbers = net.decode(_centres(buckets_N)[None], labels)
    pixels = pop_table(message, numbers[0, 0].numel(), _pixel_table(net.likelihood, numbers))
    image = pixels.astype(np.uint8).reshape(net.channels, net.image_size, net.image_size).transpose(1, 2, 0)
    image = np.ascontiguousarray(image)
    parts = iter(np.split(buckets_N, np.cumsum(_sizes(net))[:-1]))
    posteriors = []

    def known_group(mean: np.ndarray, log_std: np.ndarray) -> np.ndarray:
        posteriors.append((next(parts), mean, log_std))
        return posteriors[-1][0]

    _top_down(net, image, labels, known_group)
    for posterior, turn in reversed(list(zip(posteriors, turns, strict=True))):
        _push_posterior(message, *posterior, turn)
    return image, label


def _top_down(net: Ladder, image_SSC: np.ndarray, labels_1: Tensor, buckets_of) -> Tensor:
    """Walk the groups; buckets_of(mean, log_std), each float64 (n,), says which buckets a group's latents are in."""
    from recipes.common.images.pixels import to_unit
    from recipes.vae.blocks import to_resolution

    features = net.encoder(to_unit(torch.from_numpy(image_SSC)[None]))
    h = net.start(labels_1)
    for rung, resolution, blank in net.walk(torch.zeros(1, net.latents)):
        h = to_resolution(h, resolution)
        mean, log_std = (_rounded(part) for part in rung.distribution(h, features[resolution]))
        h = rung(h, _centres(buckets_of(mean, log_std)).reshape(blank.shape))
    return net.finish(h)


def _turns(net: Ladder, place: int) -> list[np.ndarray]:
    """Random slots by which the bits that pick the latents of picture `place` are turned round, int64 (n,) a group.

    On top of the message lie the latents of the picture before; bits back would pick this one's latents by them, and
    drift from picture to picture to where no decoder was trained ("dirty bits").
    """
    random = np.random.default_rng(derived_seed(0, "turns", place))
    return [random.integers(0, SLOTS, size) for size in _sizes(net)]


def _pop_posterior(
    message: Message, mean_n: np.ndarray, log_std_n: np.ndarray, turns_n: np.ndarray
) -> np.ndarray:
    """Buckets int64 (n,): the one in whose share each state's slot lies, found by halving."""

    def interval_of(slots: np.ndarray, piece: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mean, log_std = mean_n[piece], log_std_n[piece]
        low, step = np.zeros(len(slots), np.int64), BUCKETS >> 1
        while step:
            further = _posterior_edge(low + step, mean, log_std) <= slots
            low, step = np.where(further, low + step, low), step >> 1
        starts = _posterior_edge(low, mean, log_std)
        return low, starts, _posterior_edge(low + 1, mean, log_std) - starts

    popped = [
        message.pop(len(mean_n[piece]), partial(interval_of, piece=piece), turns_n[piece])
        for piece in pieces(message, len(mean_n))
    ]
    return np.concatenate(popped)


def _push_posterior(
    message: Message, buckets_n: np.ndarray, mean_n: np.ndarray, log_std_n: np.ndarray, turns_n: np.ndarray
) -> None:
    """The inverse of _pop_posterior, over the same pieces: a vectorised function may round by where a number lies."""
    for piece in reversed(pieces(message, len(buckets_n))):
        starts = _posterior_edge(buckets_n[piece], mean_n[piece], log_std_n[piece])
        ends = _posterior_edge(buckets_n[piece] + 1, mean_n[piece], log_std_n[piece])
        message.push(starts, ends - starts, turns_n[piece])


def _posterior_edge(buckets_n: np.ndarray, mean_n: np.ndarray, log_std_n: np.ndarray) -> np.ndarray:
    """Slots below the lower edge of each bucket, int64 (n,): one a bucket, the others by the posterior's mass."""
    edges = torch.special.ndtri(torch.from_numpy(buckets_n).double() / BUCKETS).numpy()
    mass = torch.special.ndtr(torch.from_numpy((edges - mean_n) * np.exp(-log_std_n))).numpy()
    return buckets_n + np.floor(mass * FREE).astype(np.int64)


def _push_prior(message: Message, buckets_N: np.ndarray) -> None:
    """Buckets have equal mass under the prior: each is its own slots' upper bits."""
    for piece in reversed(pieces(message, len(buckets_N))):
        message.push(buckets_N[piece] * WIDTH, np.full(len(buckets_N[piece]), WIDTH))


def _pop_prior(message: Message, count: int) -> np.ndarray:
    """The inverse of _push_prior, int64 (count,)."""

    def interval_of(slots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return slots // WIDTH, slots // WIDTH * WIDTH, np.full(len(slots), WIDTH)

    sizes = [piece.stop - piece.start for piece in pieces(message, count)]
    return np.concatenate([message.pop(size, interval_of) for size in sizes])


def _pixel_table(likelihood: Likelihood, numbers_1PCSS: Tensor) -> np.ndarray:
    """Cumulative frequencies of the 256 values of each pixel, int64 (C * S * S, 257)."""
    rounded = (numbers_1PCSS / GRID).round() * GRID
    values = torch.arange(256.0)[:, None, None, None].expand(-1, *numbers_1PCSS.shape[2:])
    log_prob = likelihood.log_prob(rounded.expand(256, -1, -1, -1, -1), values)
    return table(log_prob.double().exp().flatten(1).T.contiguous().numpy())


def _push_label(message: Message, net: Ladder, label: int) -> None:
    if net.classes is not None:
        push_table(message, np.array([label]), _label_table(net))


def _pop_label(message: Message, net: Ladder) -> int:
    return -1 if net.classes is None else int(pop_table(message, 1, _label_table(net))[0])


def _label_table(net: Ladder) -> np.ndarray:
    assert net.classes is not None, "only a net with classes codes one"
    return table(np.ones(net.classes.num_embeddings))


def _centres(buckets_n: np.ndarray) -> Tensor:
    """The latent that stands for a bucket, its median under the prior, fp32."""
    return torch.special.ndtri((torch.from_numpy(buckets_n).double() + 0.5) / BUCKETS).float()


def _rounded(values: Tensor) -> np.ndarray:
    return ((values.double() / GRID).round() * GRID).flatten().numpy()


def _flat(image_SSC: np.ndarray) -> np.ndarray:
    """Pixels in the order of the likelihood's numbers, int64 (C * S * S,)."""
    return image_SSC.transpose(2, 0, 1).reshape(-1).astype(np.int64)


def _sizes(net: Ladder) -> list[int]:
    return [channels * resolution**2 for resolution, channels in net.groups]


def _first_words(latents: int) -> np.ndarray:
    """Random bits for the first picture's latents, more than they can need; what is left is not stored."""
    count = latents * PRECISION // 32 + LANES
    return np.random.default_rng(derived_seed(0, "first words")).integers(0, 1 << 32, count, dtype=np.uint32)
