"""Which sizes and classes go together with a net, before anything heavy is imported."""

from pipeline.run.errors import UserError
from recipes.diffusion.config import Dit, Unet

FEW_TOKENS = 100  # of a row; on a CPU, up to here plain attention is faster to train than fused


def null_label(net: Unet | Dit, classes: int) -> int | None:
    """The label of a picture whose class is hidden or not known; None where the net takes no class.

    diffusers' DiT cannot go without a class: where there is none, it sees "no class" always.
    """
    return classes or (1 if isinstance(net, Dit) else None)


def tokens(net: Unet | Dit, image_size: int) -> int:
    """The longest row that attends to itself: patches of a DiT, positions of a U-Net's finest level with attention."""
    if isinstance(net, Dit):
        return (image_size // net.patch_size) ** 2
    levels = len(net.channels)
    attending = max(
        1, min(net.attention_levels, levels)
    )  # the middle attends, at the coarsest level, in any case
    return (image_size // 2 ** (levels - attending)) ** 2


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
