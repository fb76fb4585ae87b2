"""`headwater explain`: how a picture comes out of noise, and where each word of its caption is looked at.

Shapes: B pictures, C channels, H rows, W columns, P positions of a layer, L tokens.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor

from recipes.text_to_image.config import TextToImageConfig

if TYPE_CHECKING:
    from recipes.text_to_image.pipeline import TextToImagePipeline

STYLE = """
.steps, .words { display: flex; flex-wrap: wrap; gap: .6rem; }
.steps figure, .words figure { margin: 0; text-align: center; }
.steps img, .words img { image-rendering: pixelated; width: 96px; height: 96px; display: block; }
figcaption { font-size: .75rem; color: var(--soft); }
"""
LOOK = 0.35  # of a picture that a map of a word lets through where nobody looks


@dataclass
class Looks:
    """Where positions of the picture looked while it was drawn: (P, L) of each layer and step."""

    on: bool = False
    seen: list[Tensor] = field(default_factory=list)


class Watched(AttnProcessor):
    """Attention by plain products, which leaves what it weighs words by in `looks`."""

    def __init__(self, looks: Looks):
        super().__init__()
        self.looks = looks

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *more: Any,
        **named: Any,
    ) -> Tensor:
        if self.looks.on and encoder_hidden_states is not None:
            query = attn.head_to_batch_dim(attn.to_q(hidden_states))
            key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
            mask = attn.prepare_attention_mask(
                attention_mask, encoder_hidden_states.shape[1], len(hidden_states)
            )
            self.looks.seen.append(attn.get_attention_scores(query, key, mask).mean(dim=0))
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, *more, **named)


@dataclass(frozen=True)
class Drawing:
    """picture: uint8 (H, W, C); steps: what the net took the picture for at each time, uint8 (S, H, W, C); times: in
    [0, 1], 1 is noise; words: tokens; maps: the share of looks at each word by place, fp32 (L, H, W), mean over layers,
    heads and steps."""

    picture: np.ndarray
    steps: np.ndarray
    times: list[float]
    words: list[str]
    maps: np.ndarray


@torch.no_grad()
def drawn(config: TextToImageConfig, pipeline: "TextToImagePipeline", prompt: str, seed: int) -> Drawing:
    """One picture of a prompt, watched."""
    from recipes.diffusion.objectives import TIMES, signal_and_noise

    asked, away = pipeline.encode([prompt]), pipeline.encode([""])
    looks, taken, times = Looks(), [], []
    processors = dict(pipeline.net.attn_processors)
    pipeline.net.set_attn_processor(Watched(looks))

    def said(x_BCHW: Tensor, timestep_B: Tensor) -> Tensor:
        looks.on = True
        pipeline._forward(x_BCHW, timestep_B, asked)
        looks.on = False
        found_BCHW = pipeline._predict(x_BCHW, timestep_B, asked, away, pipeline.config.guidance_scale)
        alpha_B, sigma_B = signal_and_noise(config.model.schedule, timestep_B.float())
        taken.append(_clean(config.model.prediction, x_BCHW, found_BCHW, alpha_B, sigma_B)[0])
        times.append(float(timestep_B[0]) / TIMES)
        return found_BCHW

    x_BCHW = pipeline._denoised([seed], said, pipeline.config.num_inference_steps)
    pipeline.net.set_attn_processor(processors)
    words = pipeline.tokenizer(prompt)["input_ids"][: pipeline.config.max_length]
    side = x_BCHW.shape[-1]
    maps = torch.stack([_spread(seen_PL, side) for seen_PL in looks.seen]).mean(dim=0)[: len(words)]
    return Drawing(
        _pixels(x_BCHW[0]),
        np.stack([_pixels(one) for one in taken]),
        times,
        pipeline.tokenizer.convert_ids_to_tokens(words),
        maps.float().cpu().numpy(),
    )


def _clean(prediction: str, x_BCHW: Tensor, said_BCHW: Tensor, alpha_B: Tensor, sigma_B: Tensor) -> Tensor:
    """The picture that a prediction amounts to."""
    alpha, sigma = alpha_B[:, None, None, None], sigma_B[:, None, None, None]
    if prediction == "flow":
        return x_BCHW - sigma * said_BCHW
    if prediction == "v":
        return alpha * x_BCHW - sigma * said_BCHW
    return (x_BCHW - sigma * said_BCHW) / alpha.clamp(min=1e-4)


def _spread(seen_PL: Tensor, side: int) -> Tensor:
    """(P, L) of a square of positions to (L, side, side)."""
    positions = round(len(seen_PL) ** 0.5)
    maps_LHW = seen_PL.T.reshape(1, -1, positions, positions)
    return torch.nn.functional.interpolate(maps_LHW.float(), size=(side, side), mode="nearest")[0]


def _pixels(x_CHW: Tensor) -> np.ndarray:
    from recipes.common.images.pixels import to_pixels

    return to_pixels(x_CHW[None])[0].cpu().numpy()


def write_explained(config: TextToImageConfig, prompt: str, out: Path) -> str:
    """Write the page.

    Raises:
        UserError: the net is not trained yet; `out` is there; a word that the encoder has never seen.
    """
    from recipes.common.drawn import check_new_page, trained_of
    from recipes.text_to_image.sample import require_known
    from recipes.text_to_image.sampler import load_net, pipeline_of

    trained = trained_of(config.run.output_dir)
    check_new_page(out)
    pipeline = pipeline_of(config, *load_net(config, trained), trained, config.sampler)
    require_known(pipeline.tokenizer, prompt, "prompt")
    found = drawn(config, pipeline, prompt, seed=0)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(_page(prompt, found), "utf-8")
    return f"{out}: {len(found.times)} steps, {len(found.words)} words"


def _page(prompt: str, found: Drawing) -> str:
    from pipeline.publish.html.element import element, page
    from pipeline.publish.html.style import STYLE as HOUSE
    from recipes.common.images.figures import figure

    steps = [
        figure(picture, f"time {time:.2f}") for picture, time in zip(found.steps, found.times, strict=True)
    ]
    most = max(float(found.maps.max()), 1e-12)
    words = [
        figure(_lit(found.picture, one / most), f"{word}: {one.mean():.2f}")
        for word, one in zip(found.words, found.maps, strict=True)
    ]
    return page(
        f"{prompt}: explained",
        HOUSE + STYLE,
        element("h1", prompt or "no caption"),
        element("div", figure(found.picture, "seed 0"), class_="steps"),
        element("h2", "Out of noise"),
        element("p", "What the net takes the picture for, from noise (time 1) to the end (time 0)."),
        element("div", *steps, class_="steps"),
        element("h2", "Where each word is looked at"),
        element(
            "p",
            "Light: places whose attention goes to the word, on average over layers, heads and steps; below, the share "
            "of all attention that goes to it.",
        ),
        element("div", *words, class_="words"),
    )


def _lit(picture_HWC: np.ndarray, strength_HW: np.ndarray) -> np.ndarray:
    return (picture_HWC * (LOOK + (1 - LOOK) * strength_HW[..., None])).astype(np.uint8)
