"""The samplers of a trained recipe, by what a reader calls them: the published pipeline around its weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.common.images.shape import Shape
from recipes.common.training import NETS
from recipes.diffusion.samplers import scheduler_of, title
from recipes.text_to_image.captions import FACTS, TOKENIZER, Captions
from recipes.text_to_image.config import TextToImageConfig
from recipes.text_to_image.encoder import build_encoder, load_frozen, load_weights, states_of
from recipes.text_to_image.nets import NAMES, Painter, build_net

if TYPE_CHECKING:
    from torch import Tensor, nn

    from recipes.diffusion.config import Sampler
    from recipes.text_to_image.pipeline import TextToImagePipeline

Draw = Callable[
    [list[int], list[Any]], np.ndarray
]  # (seeds, captions or their numbers) -> uint8 (B, H, W, C)
CHUNK = 50  # pictures of one forward, always


def told_of(
    captions: Captions, pipeline: "TextToImagePipeline", labels: list[int]
) -> "tuple[Tensor, Tensor]":
    """Captions by number as what the net attends to: each alone, as pipeline.encode does it, or as a frozen encoder's
    states say it."""
    import torch

    device = pipeline._execution_device
    masks = torch.from_numpy(captions.mask[labels]).to(device)
    if captions.states is not None:
        return torch.from_numpy(np.array(captions.states[labels])).to(device), masks
    ids = torch.from_numpy(captions.ids[labels]).to(device)
    with torch.no_grad():
        rows = [
            states_of(pipeline.text_encoder, ids[row : row + 1], masks[row : row + 1])
            for row in range(len(ids))
        ]
    return torch.cat(rows).float(), masks


def load_samplers(config: TextToImageConfig, prepared: Path, trained: Path) -> dict[str, Draw]:
    """The recipe's own sampler, then the others; all with the EMA's weights where there are some."""
    classes = json.loads((prepared / "classes.json").read_text("utf-8"))
    weights = "EMA" if config.train.ema_decay else "last step"
    net, encoder = load_net(config, trained)
    return {
        f"{weights}, {title(sampler)}": by_name(pipeline_of(config, net, encoder, trained, sampler), classes)
        for sampler in (config.sampler, *config.sampler.others)
    }


def load_net(config: TextToImageConfig, trained: Path) -> "tuple[nn.Module, nn.Module]":
    """(the net, the encoder) of a published `train` artifact, fp32, with the EMA's weights where there are some."""
    painter = load_painter(config, trained)
    if painter.encoder is not None:
        return painter.net, painter.encoder
    assert config.text.pretrained is not None
    return painter.net, load_frozen(config.text.pretrained)


def load_painter(config: TextToImageConfig, trained: Path) -> Painter:
    """What was trained, ready to be used."""
    facts = json.loads((trained / NETS).read_text("utf-8"))
    net = build_net(config.model.net, Shape(**facts["shape"]), facts["width"])
    encoder = None if config.text.pretrained else build_encoder(config.text, facts["vocabulary"])
    painter = Painter(net, encoder)
    name = "model_ema" if config.train.ema_decay else "model"
    load_weights(painter, trained / f"{name}.safetensors")
    return painter.eval()


def pipeline_of(
    config: TextToImageConfig,
    net: "nn.Module",
    encoder: "nn.Module | None",
    trained: Path | None,
    sampler: "Sampler",
) -> "TextToImagePipeline":
    """The pipeline around nets that exist; it turns no progress bar. trained: where its tokenizer lies; None: it is
    given tokens."""
    from transformers import AutoTokenizer

    from recipes.text_to_image.pipeline import TextToImagePipeline

    length = json.loads((trained / FACTS).read_text("utf-8"))["length"] if trained else config.text.max_length
    pipeline = TextToImagePipeline(
        scheduler_of(config.model, sampler.name),
        AutoTokenizer.from_pretrained(trained / TOKENIZER) if trained else None,
        encoder,
        max_length=length,
        num_inference_steps=sampler.steps,
        guidance_scale=sampler.guidance,
        batch_size=CHUNK,
        **{NAMES[config.model.net.kind]: net},
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def by_name(pipeline: "TextToImagePipeline", classes: list[str] | None = None) -> Draw:
    """A pipeline as (seeds, captions) -> uint8 (B, H, W, C). classes: captions by number, where numbers are given."""

    def draw(seeds: list[int], captions: list[Any]) -> np.ndarray:
        prompts = [classes[one] if isinstance(one, int) else one for one in captions]
        return as_bytes(pipeline(prompts, seeds=seeds, output_type="np").images)

    return draw


def drawing(pipeline: "TextToImagePipeline", captions: Captions) -> Draw:
    """The same from numbers of captions that are tokens already."""

    def draw(seeds: list[int], labels: list[int]) -> np.ndarray:
        states, away = told_of(captions, pipeline, labels), told_of(captions, pipeline, [-1])
        found = pipeline(seeds=seeds, states=states, negative_states=away, output_type="np")
        return as_bytes(found.images)

    return draw


def as_bytes(images: np.ndarray) -> np.ndarray:
    """[0, 1] to uint8 as diffusers' numpy_to_pil does it."""
    return (images * 255).round().astype(np.uint8)
