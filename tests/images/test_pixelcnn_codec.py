"""Catches a file of pictures that is read back as others, is larger than the likelihood says, or hides damage."""

import numpy as np
import pytest
import torch

from recipes.common.coded import DamagedMessage
from recipes.pixelcnn.codec import LANES, decode, encode
from recipes.pixelcnn.drawing import coins_of, completed, drawn, to_images
from recipes.pixelcnn.score import nats_of
from tests.images.test_pixelcnn import KINDS, net_of

COUNT = LANES + 7  # a full chunk and one that is not


@pytest.fixture(scope="module", params=[("softmax", 1), ("logistics", 1), ("logistics", 3)])
def coded(request):
    """(net, pictures that it drew itself, labels, the file)."""
    kind, channels = request.param
    net = net_of(5, channels, scale=1.5, **KINDS[kind])
    labels = torch.arange(COUNT) % 3
    images = to_images(net, drawn(net, labels, coins_of(net, list(range(COUNT))))).numpy()
    return net, images, labels.numpy(), encode(net, images, labels.numpy())


def test_pictures_and_labels_come_back_bit_for_bit(coded):
    net, images, labels, content = coded
    found, told = decode(net, content)
    assert found.dtype == np.uint8 and np.array_equal(found, images)
    assert np.array_equal(told, labels)


def test_the_file_is_as_large_as_the_likelihood_says(coded):
    """And its header, a state a picture coded together, and a class each: log2(3) bits."""
    net, images, labels, content = coded
    bits = nats_of(net, images, labels).sum() / np.log(2) + COUNT * np.log2(3)
    message = len(content) - content.index(b"\n") - 1
    assert bits / 8 < message < 1.002 * bits / 8 + 8 * LANES + 8


def test_other_weights_read_other_pictures_and_say_so(coded):
    net, _, _, content = coded
    with torch.no_grad():
        net.head.bias += 0.3
    try:
        with pytest.raises(DamagedMessage, match="checksum differs"):
            decode(net, content)
    finally:
        with torch.no_grad():
            net.head.bias -= 0.3


@pytest.mark.parametrize("content", [b"", b"{}", b"no json\n1234", b'{"pictures": 1}\n12'])
def test_what_is_no_file_is_refused(coded, content):
    with pytest.raises(DamagedMessage, match="no file of coded pictures"):
        decode(coded[0], content)


def test_a_picture_is_completed_given_its_upper_half_by_its_own_seed():
    net = net_of(6, 1, scale=1.5)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 6, 6, 1), np.uint8))
    found = completed(net, images, [0, 1, 2], [5, 6, 7], 18)
    assert np.array_equal(found[:, :3], images.numpy()[:, :3])
    assert not np.array_equal(found[:, 3:], images.numpy()[:, 3:])
    assert np.array_equal(completed(net, images[1:2], [1], [6], 18), found[1:2])
    assert not np.array_equal(completed(net, images[1:2], [1], [8], 18), found[1:2])
