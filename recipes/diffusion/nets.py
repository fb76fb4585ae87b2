"""diffusers' U-Net and DiT at a recipe's sizes, with a class for "no class"; what does not fit is refused by name.

Shapes: B pictures, C channels, H rows, W columns.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.errors import UserError
from recipes.diffusion.config import Dit, Unet

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel, UNet2DModel

    from recipes.common.dataset import PreparedImages


@dataclass(frozen=True)
class Pictures:
    """What a net must know of its pictures. classes: 0 where there are no labels."""

    image_size: int
    channels: int
    classes: int

    def null_label(self, net: Unet | Dit) -> int | None:
        """The label of a picture whose class is hidden or not known; None where the net takes no class.

        diffusers' DiT cannot go without a class: where there is none, it sees "no class" always.
        """
        return self.classes or (1 if isinstance(net, Dit) else None)


def pictures_of(images: "PreparedImages") -> Pictures:
    """What a net must know of a prepared split."""
    _, height, width, channels = images.images.shape
    assert height == width, "prepared pictures are square"
    return Pictures(height, channels, len(images.classes))


def build_net(net: Unet | Dit, pictures: Pictures) -> nn.Module:
    """The net with fresh weights: at first it says 0 everywhere, and every residual block passes its input on."""
    return _unet(net, pictures) if isinstance(net, Unet) else _dit(net, pictures)


def predict(net: nn.Module, x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor | None) -> Tensor:
    """What the net says of noisy pictures, fp32 (B, C, H, W); it computes in its weights' precision, or autocast's."""
    dtype = next(net.parameters()).dtype
    return net(x_BCHW.to(dtype), timestep_B, class_labels=label_B, return_dict=False)[0].float()


def _unet(unet: Unet, pictures: Pictures) -> "UNet2DModel":
    from diffusers import UNet2DModel

    levels, attending = len(unet.channels), min(unet.attention_levels, len(unet.channels))
    net = UNet2DModel(
        sample_size=pictures.image_size,
        in_channels=pictures.channels,
        out_channels=pictures.channels,
        block_out_channels=unet.channels,
        down_block_types=("DownBlock2D",) * (levels - attending) + ("AttnDownBlock2D",) * attending,
        up_block_types=("AttnUpBlock2D",) * attending + ("UpBlock2D",) * (levels - attending),
        layers_per_block=unet.layers_per_block,
        attention_head_dim=unet.attention_head_dim,
        norm_num_groups=unet.norm_num_groups,
        dropout=unet.dropout,
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=pictures.classes + 1 if pictures.classes else None,
    )
    _zero(net.conv_out)
    for name, module in net.named_modules():
        if name.endswith(".conv2"):
            _zero(module)  # arXiv:2105.05233's residual blocks end in zeros
    if pictures.classes:
        nn.init.normal_(net.class_embedding.weight, std=0.02)
    return net


def _dit(dit: Dit, pictures: Pictures) -> "DiTTransformer2DModel":
    from diffusers import DiTTransformer2DModel

    net = DiTTransformer2DModel(
        sample_size=pictures.image_size,
        in_channels=pictures.channels,
        patch_size=dit.patch_size,
        num_attention_heads=dit.num_attention_heads,
        attention_head_dim=dit.hidden_size // dit.num_attention_heads,
        num_layers=dit.num_hidden_layers,
        dropout=dit.dropout,
        num_embeds_ada_norm=max(pictures.classes, 1),
    )
    for block in net.transformer_blocks:
        # Its own dropout of classes draws for the batch; the recipe's is part of the sample. The table keeps its
        # last row, the class of none.
        block.norm1.emb.class_embedder.dropout_prob = 0.0
        _zero(block.norm1.linear)  # adaLN-Zero, arXiv:2212.09748, section 3.2
        for embedder in (
            block.norm1.emb.timestep_embedder.linear_1,
            block.norm1.emb.timestep_embedder.linear_2,
        ):
            nn.init.normal_(embedder.weight, std=0.02)
        nn.init.normal_(block.norm1.emb.class_embedder.embedding_table.weight, std=0.02)
    _zero(net.proj_out_1)
    _zero(net.proj_out_2)
    return net


def _zero(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()


def check_net(net: Unet | Dit, image_size: int) -> None:
    """Raises UserError where a picture cannot be halved or cut into patches, or channels do not divide."""
    (_check_unet if isinstance(net, Unet) else _check_dit)(net, image_size)


def _check_unet(unet: Unet, image_size: int) -> None:
    factor = 2 ** (len(unet.channels) - 1)
    if image_size % factor:
        fits = next(
            levels for levels in range(len(unet.channels), 0, -1) if image_size % 2 ** (levels - 1) == 0
        )
        raise UserError(
            f"model.net.channels has {len(unet.channels)} levels, so data.image_size must be a multiple of {factor}, "
            f"and {image_size} is not\nway out: {fits} levels, or data.image_size="
            f"{-(-image_size // factor) * factor}"
        )
    for channels in unet.channels:
        if channels % unet.norm_num_groups:
            raise UserError(
                f"model.net.channels: {channels} is not a multiple of norm_num_groups = {unet.norm_num_groups}\n"
                f"way out: {-(-channels // unet.norm_num_groups) * unet.norm_num_groups}, or another norm_num_groups"
            )
    attending = unet.channels[-max(1, unet.attention_levels) :]
    if any(channels % unet.attention_head_dim for channels in attending):
        raise UserError(
            f"model.net.channels: {attending} attend, and not all are multiples of attention_head_dim = "
            f"{unet.attention_head_dim}\nway out: model.net.attention_head_dim={unet.norm_num_groups}"
        )


def _check_dit(dit: Dit, image_size: int) -> None:
    if image_size % dit.patch_size:
        sizes = [size for size in range(1, image_size + 1) if image_size % size == 0]
        raise UserError(
            f"model.net.patch_size = {dit.patch_size} does not divide data.image_size = {image_size}\n"
            f"expected one of: {', '.join(map(str, sizes))}"
        )
    if dit.hidden_size % dit.num_attention_heads:
        raise UserError(
            f"model.net.hidden_size = {dit.hidden_size} is not a multiple of num_attention_heads = "
            f"{dit.num_attention_heads}\nway out: num_attention_heads that divides it"
        )
    if dit.hidden_size % 4:
        raise UserError(
            f"model.net.hidden_size = {dit.hidden_size} is not a multiple of 4, which positions in two "
            "directions need\nway out: a multiple of 4"
        )
