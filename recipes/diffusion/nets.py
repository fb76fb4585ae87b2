"""diffusers' U-Net and DiT at a recipe's sizes, with a class for "no class", and the one call that both take.

Shapes: B pictures, C channels, H rows, W columns.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recipes.common.images.shape import Shape
from recipes.diffusion.config import Dit, Unet

if TYPE_CHECKING:
    from diffusers import DiTTransformer2DModel, UNet2DModel


def build_net(net: Unet | Dit, shape: Shape) -> nn.Module:
    """The net with fresh weights: at first it says 0 everywhere, and every residual block passes its input on."""
    return _unet(net, shape) if isinstance(net, Unet) else _dit(net, shape)


def attend_plainly(net: nn.Module) -> None:
    """Attention by plain products of matrices in place of the fused kernel, which needs rows that fill its blocks.

    On a CPU (torch 2.13, bf16) its backward took four times as long at 49 tokens, and at 196 it is the faster one.
    """
    from diffusers.models.attention_processor import Attention, AttnProcessor

    for module in net.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())


def predict(net: nn.Module, x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor | None) -> Tensor:
    """What the net says of noisy pictures, fp32 (B, C, H, W); it computes in its weights' precision, or autocast's."""
    dtype = next(net.parameters()).dtype
    return net(x_BCHW.to(dtype), timestep_B, class_labels=label_B, return_dict=False)[0].float()


def _unet(unet: Unet, shape: Shape) -> "UNet2DModel":
    from diffusers import UNet2DModel

    levels, attending = len(unet.channels), min(unet.attention_levels, len(unet.channels))
    net = UNet2DModel(
        sample_size=shape.image_size,
        in_channels=shape.channels,
        out_channels=shape.channels,
        block_out_channels=unet.channels,
        down_block_types=("DownBlock2D",) * (levels - attending) + ("AttnDownBlock2D",) * attending,
        up_block_types=("AttnUpBlock2D",) * attending + ("UpBlock2D",) * (levels - attending),
        layers_per_block=unet.layers_per_block,
        attention_head_dim=unet.attention_head_dim,
        norm_num_groups=unet.norm_num_groups,
        dropout=unet.dropout,
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=shape.classes + 1 if shape.classes else None,
    )
    zero(net.conv_out)
    for name, module in net.named_modules():
        if name.endswith(".conv2"):
            zero(module)  # arXiv:2105.05233's residual blocks end in zeros
    return net


def _dit(dit: Dit, shape: Shape) -> "DiTTransformer2DModel":
    from diffusers import DiTTransformer2DModel

    net = DiTTransformer2DModel(
        sample_size=shape.image_size,
        in_channels=shape.channels,
        patch_size=dit.patch_size,
        num_attention_heads=dit.num_attention_heads,
        attention_head_dim=dit.hidden_size // dit.num_attention_heads,
        num_layers=dit.num_hidden_layers,
        dropout=dit.dropout,
        num_embeds_ada_norm=max(shape.classes, 1),
    )
    for block in net.transformer_blocks:
        # Its own dropout of classes draws for the batch; the recipe's is part of the sample. The table keeps its
        # last row, the class of none.
        block.norm1.emb.class_embedder.dropout_prob = 0.0
        zero(block.norm1.linear)  # adaLN-Zero, arXiv:2212.09748, section 3.2
    zero(net.proj_out_1)
    zero(net.proj_out_2)
    return net


def zero(module: nn.Module) -> None:
    """Set every weight to 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
