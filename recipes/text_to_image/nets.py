"""diffusers' U-Net and DiT that attend to a caption, with the text encoder that learns beside them.

Shapes: B pictures, C channels, H rows, W columns, L tokens, D numbers of a state.
"""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from recipes.common.images.shape import Shape
from recipes.diffusion.config import Dit, Unet
from recipes.diffusion.nets import zero
from recipes.text_to_image.encoder import states_of

if TYPE_CHECKING:
    from diffusers import PixArtTransformer2DModel, UNet2DConditionModel

NAMES = {"unet": "unet", "dit": "transformer"}  # what diffusers' pipelines call them


class Painter(nn.Module):
    """The net and its encoder as one module, so that both learn from one loss. encoder: None where it is frozen."""

    def __init__(self, net: nn.Module, encoder: nn.Module | None):
        super().__init__()
        self.net, self.encoder = net, encoder

    def forward(self, x_BCHW: Tensor, timestep_B: Tensor, mask_BL: Tensor, told: Tensor) -> Tensor:
        """told: ids (B, L), or a frozen encoder's states (B, L, D) -> the prediction (B, C, H, W)."""
        states_BLD = told if self.encoder is None else states_of(self.encoder, told, mask_BL)
        return predict(self.net, x_BCHW, timestep_B, states_BLD, mask_BL)


def predict(
    net: nn.Module, x_BCHW: Tensor, timestep_B: Tensor, states_BLD: Tensor, mask_BL: Tensor
) -> Tensor:
    """What the net says of noisy pictures, (B, C, H, W), in its weights' precision, or autocast's."""
    dtype = next(net.parameters()).dtype
    said = net(
        x_BCHW.to(dtype),
        timestep=timestep_B,
        encoder_hidden_states=states_BLD.to(dtype),
        encoder_attention_mask=mask_BL.to(dtype),  # 1: seen
        return_dict=False,
    )
    return said[0]


def build_net(net: Unet | Dit, shape: Shape, width: int) -> nn.Module:
    """The net with fresh weights, for states of `width` numbers: at first it says 0 everywhere."""
    return _unet(net, shape, width) if isinstance(net, Unet) else _dit(net, shape, width)


def _unet(unet: Unet, shape: Shape, width: int) -> "UNet2DConditionModel":
    from diffusers import UNet2DConditionModel

    levels = len(unet.channels)
    attending = min(unet.attention_levels, levels)
    net = UNet2DConditionModel(
        sample_size=shape.image_size,
        in_channels=shape.channels,
        out_channels=shape.channels,
        block_out_channels=unet.channels,
        down_block_types=("DownBlock2D",) * (levels - attending) + ("CrossAttnDownBlock2D",) * attending,
        up_block_types=("CrossAttnUpBlock2D",) * attending + ("UpBlock2D",) * (levels - attending),
        layers_per_block=unet.layers_per_block,
        # This class calls the number of heads so (diffusers issue 2011).
        attention_head_dim=tuple(max(1, channels // unet.attention_head_dim) for channels in unet.channels),
        cross_attention_dim=width,
        norm_num_groups=unet.norm_num_groups,
        dropout=unet.dropout,
        resnet_time_scale_shift="scale_shift",
    )
    zero(net.conv_out)
    for name, module in net.named_modules():
        if name.endswith((".conv2", ".proj_out")):
            zero(module)  # arXiv:2105.05233: blocks pass their input on at first
    return net


def _dit(dit: Dit, shape: Shape, width: int) -> "PixArtTransformer2DModel":
    """PixArt's (arXiv:2310.00426): DiT's blocks with attention to the caption, one modulation for all of them."""
    from diffusers import PixArtTransformer2DModel

    net = PixArtTransformer2DModel(
        sample_size=shape.image_size,
        in_channels=shape.channels,
        out_channels=shape.channels,
        patch_size=dit.patch_size,
        num_attention_heads=dit.num_attention_heads,
        attention_head_dim=dit.hidden_size // dit.num_attention_heads,
        cross_attention_dim=dit.hidden_size,
        caption_channels=width,
        num_layers=dit.num_hidden_layers,
        dropout=dit.dropout,
        use_additional_conditions=False,
    )
    for block in net.transformer_blocks:
        zero(block.attn2.to_out[0])
    zero(net.proj_out)
    return net
