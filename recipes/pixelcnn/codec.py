"""Lossless coding of pictures: each value of each pixel under the probabilities that the net gives it.

Encoder and decoder must build the same tables from floating-point numbers. Both therefore run the same pictures at a
time on one thread in fp32, a pixel at a time through the same operations; what the net gives is rounded before a table
is built from it (pixels.GRID). That holds on one build of torch and one kind of processor: the file names both, and
its checksum tells where it did not hold. S pixels a side, C channels, n pictures coded together.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from recipes.common.coded import decoded, with_header
from recipes.common.rans import Message, pop_table, push_table, table
from recipes.common.threads import one_thread
from recipes.pixelcnn.net import PixelNet

LANES = 50  # pictures coded together, each by a state of its own


def encode(net: PixelNet, images_BSSC: np.ndarray, labels_B: np.ndarray) -> bytes:
    """A file: a line of JSON, then the message."""
    message = Message(LANES)
    with one_thread(), torch.no_grad():
        for begin in reversed(range(0, len(images_BSSC), LANES)):
            part = slice(begin, begin + LANES)
            _push(message, net, np.array(images_BSSC[part]).astype(np.int64), np.array(labels_B[part]))
    return with_header(images_BSSC, message.to_bytes())


def decode(net: PixelNet, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (B, S, S, C) and labels int64 (B,) of a file. Raises as recipes.common.coded.decoded."""

    def pop(message: Message, count: int) -> tuple[np.ndarray, np.ndarray]:
        counts = [min(LANES, count - begin) for begin in range(0, count, LANES)]
        images, labels = zip(*[_pop(message, net, some) for some in counts], strict=True)
        return np.concatenate(images), np.concatenate(labels)

    return decoded(content, LANES, pop)


def _push(message: Message, net: PixelNet, values_nSSC: np.ndarray, labels_n: np.ndarray) -> None:
    """Values are pushed from the last pixel to the first, so that they are popped from the first on."""
    given = torch.from_numpy(values_nSSC)
    coded: list[tuple[np.ndarray, np.ndarray]] = []

    def known(row: int, column: int, channel: int, tables: np.ndarray) -> Tensor:
        coded.append((values_nSSC[:, row, column, channel], tables))
        return given[:, row, column, channel]

    _walk(net, torch.from_numpy(labels_n), known)
    for symbols, tables in reversed(coded):
        push_table(message, symbols, tables)
    if net.classes:
        push_table(message, labels_n.astype(np.int64), table(np.ones(net.classes)))


def _pop(message: Message, net: PixelNet, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of _push."""
    labels_n = np.zeros(count, np.int64)
    if net.classes:
        labels_n = pop_table(message, count, table(np.ones(net.classes)))

    def popped(row: int, column: int, channel: int, tables: np.ndarray) -> Tensor:
        return torch.from_numpy(pop_table(message, count, tables))

    found = _walk(net, torch.from_numpy(labels_n), popped)
    return found.numpy().astype(np.uint8), labels_n


def _walk(
    net: PixelNet, labels_n: Tensor, value_of: Callable[[int, int, int, np.ndarray], Tensor]
) -> Tensor:
    """Values int64 (n, S, S, C), each what `value_of` says, which is shown the tables that it has."""
    size, channels = net.image_size, net.channels
    pixels_nSSC = torch.zeros(len(labels_n), size, size, channels, dtype=torch.int64)
    columns = net.columns(labels_n)
    for row in range(size):
        columns.begin(row, pixels_nSSC)
        for column in range(size):
            numbers = columns.numbers(column, pixels_nSSC)
            for channel in range(channels):
                seen = pixels_nSSC[:, row, column, :channel]
                tables = table(net.likelihood.conditional(numbers, seen).numpy())
                pixels_nSSC[:, row, column, channel] = value_of(row, column, channel, tables)
    return pixels_nSSC
