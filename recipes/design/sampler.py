"""The samplers of a trained recipe: the published pipeline around its weights, its table written out.

A class's own label asks for that class and leaves all else open, so every stage that asks for classes works as it is.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from recipes.common.images.shape import Shape
from recipes.common.training import NETS
from recipes.design.asked import Attribute, attributes_in, label_of
from recipes.design.config import DesignConfig
from recipes.diffusion.sampler import Draw, pipeline_of, samplers_of

if TYPE_CHECKING:
    from torch import nn

    from recipes.diffusion.pipeline import ClassConditionalPipeline


def load_samplers(config: DesignConfig, prepared: Path, trained: Path) -> dict[str, Draw]:
    """The recipe's own sampler, then the others; all with the EMA's weights where there are some."""
    net, attributes = load_net(config, trained)
    return samplers_of(config, net, label_of(attributes, ""))


def load_pipeline(
    config: DesignConfig, trained: Path
) -> tuple["ClassConditionalPipeline", tuple[Attribute, ...]]:
    """The recipe's own sampler as the pipeline that is published, and what can be asked of it."""
    net, attributes = load_net(config, trained)
    return pipeline_of(config, net, label_of(attributes, ""), config.sampler), attributes


def load_net(config: DesignConfig, trained: Path) -> tuple["nn.Module", tuple[Attribute, ...]]:
    """The net of a published `train` artifact as diffusers builds it, fp32, with the EMA's weights where there are."""
    from safetensors.torch import load_file

    from recipes.design.design import plain, with_sums
    from recipes.diffusion.nets import build_net

    shape = Shape(**json.loads((trained / NETS).read_text("utf-8"))["shape"])
    attributes = attributes_in(trained / NETS)
    net = with_sums(build_net(config.model.net, shape), attributes)
    name = "model_ema" if config.train.ema_decay else "model"
    net.load_state_dict(load_file(trained / f"{name}.safetensors"))
    return plain(net, config.model.net, shape, attributes).eval(), attributes
