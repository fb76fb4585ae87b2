"""Stage `train`: the adapters, and the fp32 shadow of them."""

import importlib.util
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.launch import check_launch
from pipeline.run.stage import Context
from recipes.diffusion.config import ZERO_STAGES
from recipes.text_to_image_lora.config import LoraConfig

if TYPE_CHECKING:
    from pipeline.run.memory import Size


def check(config: LoraConfig) -> None:
    """Raises UserError for a base or modules that are not there, batches that do not divide, an unfit launch file."""
    from recipes.text_to_image_lora.bases import base_of, load_net

    if importlib.util.find_spec("diffusers") is None:
        raise UserError("pictures need diffusers\nway out: pip install 'headwater[image]'")
    base = base_of(config.model.pretrained)
    if base.flow and config.train.min_snr_gamma is not None:
        raise UserError(
            "train.min_snr_gamma weighs noise and v; this base predicts the velocity of a flow\nway out: leave it out"
        )
    if config.train.target_modules:
        import torch

        from recipes.text_to_image_lora.adapters import with_adapters

        with torch.device("meta"):
            with_adapters(load_net(config.model.pretrained, base, blank=True), base, config.train)
    check_launch(config.run, config.train, ZERO_STAGES, config.train)


def estimate(config: LoraConfig) -> "Size | None":
    """None: what a base's net costs is known once its latents are there."""
    return None


def run(context: Context) -> dict[str, Any]:
    """Write model.safetensors, the adapters alone, and with an EMA model_ema.safetensors."""
    from recipes.common.training import train
    from recipes.text_to_image_lora.adapters import Adapters

    return train(Adapters(context.config, context.inputs["prepare"], context.inputs["embed"]), context)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("train")
