"""The pipelines that can be taught, and how each is called: its denoiser, what it attends to, what it predicts.

Shapes: B pictures, C latent channels, H rows and W columns of latents, L tokens, D numbers of a state.
"""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError, nearest

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor, nn

INDEX = "model_index.json"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
JOINT = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
Told = dict[str, "Tensor"]  # what the denoiser attends to, a row a caption


@dataclass(frozen=True)
class Base:
    """net: the denoiser's name in the pipeline; flow: it predicts the velocity of a straight path, else what its
    scheduler says; targets: modules that get adapters; told: (pipeline, captions, tokens at most) -> Told;
    said: (net, noisy latents (B, C, H, W), times (B,) in [0, 1000), Told) -> (B, C, H, W)."""

    net: str
    flow: bool
    targets: tuple[str, ...]
    told: Callable[["DiffusionPipeline", list[str], int], Told]
    said: Callable[["nn.Module", "Tensor", "Tensor", Told], "Tensor"]


def base_of(pretrained: str) -> Base:
    """Raises UserError where it is no diffusers pipeline, or one of a kind that is not known here."""
    name = index_of(pretrained)["_class_name"]
    if name not in BASES:
        raise UserError(f"model.pretrained: {pretrained} is a {name}\n{nearest(str(name), list(BASES))}")
    return BASES[name]


def index_of(pretrained: str) -> dict[str, Any]:
    """The model_index.json of a directory or a name on the Hub.

    Raises:
        UserError: there is none.
    """
    from diffusers import DiffusionPipeline

    directory = Path(pretrained).expanduser()
    if directory.is_dir():
        if not (directory / INDEX).is_file():
            raise UserError(
                f"model.pretrained: {directory} has no {INDEX}\n"
                "expected: a diffusers pipeline, as save_pretrained writes it"
            )
        return json.loads((directory / INDEX).read_text("utf-8"))
    try:
        return dict(DiffusionPipeline.load_config(pretrained))
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.pretrained: {pretrained}: {' '.join(str(error).split())[:200]}\n"
            "expected: a directory, or a name that this machine has or can reach"
        ) from None


def load_pipeline(pretrained: str) -> "DiffusionPipeline":
    """The whole base in fp32 on the GPU where there is one; it turns no progress bar."""
    import torch
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(Path(pretrained).expanduser(), use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.float()
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu")


def load_net(pretrained: str, base: Base, blank: bool = False) -> "nn.Module":
    """The denoiser in fp32; blank: without weights, of which only shapes are asked."""

    library, name = index_of(pretrained)[base.net]
    kind = getattr(importlib.import_module(library), name)
    place = Path(pretrained).expanduser()
    if blank:
        return kind.from_config(kind.load_config(place, subfolder=base.net))
    return kind.from_pretrained(place, subfolder=base.net, use_safetensors=True).float()


def multiple_of(pretrained: str, base: Base) -> int:
    """Pixels of which a picture's side must be a multiple: a latent's, times what the denoiser halves or packs."""
    from diffusers import AutoencoderKL

    place = Path(pretrained).expanduser()
    pixels = pixels_of_a_latent(AutoencoderKL.load_config(place, subfolder="vae"))
    if base.flow:
        return 2 * pixels
    library, name = index_of(pretrained)[base.net]
    kind = getattr(importlib.import_module(library), name)
    return pixels * 2 ** (len(kind.load_config(place, subfolder=base.net)["block_out_channels"]) - 1)


def pixels_of_a_latent(vae: Any) -> int:
    """Of a side. vae: the autoencoder's config."""
    return 2 ** (len(vae["block_out_channels"]) - 1)


def load_scheduler(pretrained: str) -> Any:
    """The base's own, which says what its net predicts and how noise grows."""
    library, name = index_of(pretrained)["scheduler"]
    kind = getattr(importlib.import_module(library), name)
    return kind.from_pretrained(Path(pretrained).expanduser(), subfolder="scheduler")


def _told_sd(pipeline: "DiffusionPipeline", captions: list[str], most: int) -> Told:
    states, _ = pipeline.encode_prompt(captions, pipeline.device, 1, False)
    return {"states": states}


def _said_sd(net: "nn.Module", x_BCHW: "Tensor", timestep_B: "Tensor", told: Told) -> "Tensor":
    return net(x_BCHW, timestep_B, encoder_hidden_states=told["states"], return_dict=False)[0]


def _told_xl(pipeline: "DiffusionPipeline", captions: list[str], most: int) -> Told:
    states, _, pooled, _ = pipeline.encode_prompt(captions, do_classifier_free_guidance=False)
    return {"states": states, "pooled": pooled}


def _said_xl(net: "nn.Module", x_BCHW: "Tensor", timestep_B: "Tensor", told: Told) -> "Tensor":
    """Its pictures are seen whole: original size, no crop, target size (arXiv:2307.01952, section 2.2)."""
    import torch

    side_B = told["scale"] * x_BCHW.shape[-1]
    none_B = torch.zeros_like(side_B)
    sizes = torch.stack([side_B, side_B, none_B, none_B, side_B, side_B], dim=1)
    added = {"text_embeds": told["pooled"], "time_ids": sizes}
    return net(
        x_BCHW,
        timestep_B,
        encoder_hidden_states=told["states"],
        added_cond_kwargs=added,
        return_dict=False,
    )[0]


def _told_3(pipeline: "DiffusionPipeline", captions: list[str], most: int) -> Told:
    states, _, pooled, _ = pipeline.encode_prompt(
        captions, None, None, do_classifier_free_guidance=False, max_sequence_length=most
    )
    return {"states": states, "pooled": pooled}


def _said_3(net: "nn.Module", x_BCHW: "Tensor", timestep_B: "Tensor", told: Told) -> "Tensor":
    return net(
        hidden_states=x_BCHW,
        timestep=timestep_B,
        encoder_hidden_states=told["states"],
        pooled_projections=told["pooled"],
        return_dict=False,
    )[0]


def _told_flux(pipeline: "DiffusionPipeline", captions: list[str], most: int) -> Told:
    states, pooled, _ = pipeline.encode_prompt(captions, None, max_sequence_length=most)
    return {"states": states, "pooled": pooled}


def _said_flux(net: "nn.Module", x_BCHW: "Tensor", timestep_B: "Tensor", told: Told) -> "Tensor":
    """Latents go two by two as one token; the base's own guidance, where it has one, is set to none."""
    import torch
    from diffusers import FluxPipeline

    rows, channels, height, width = x_BCHW.shape
    device = x_BCHW.device
    places = FluxPipeline._prepare_latent_image_ids(rows, height // 2, width // 2, device, x_BCHW.dtype)
    words = torch.zeros(told["states"].shape[1], 3, device=device, dtype=x_BCHW.dtype)
    said = net(
        hidden_states=FluxPipeline._pack_latents(x_BCHW, rows, channels, height, width),
        timestep=timestep_B / 1000,
        guidance=torch.ones(rows, device=device) if net_config(net).guidance_embeds else None,
        pooled_projections=told["pooled"],
        encoder_hidden_states=told["states"],
        txt_ids=words,
        img_ids=places,
        return_dict=False,
    )[0]
    return FluxPipeline._unpack_latents(said, height, width, 1)


def net_config(net: "nn.Module") -> Any:
    """The denoiser's own, below whatever an engine wrapped around it."""
    while not hasattr(net, "config") or not hasattr(net.config, "in_channels"):
        net = net.module
    return net.config


BASES = {
    "StableDiffusionPipeline": Base("unet", False, ATTENTION, _told_sd, _said_sd),
    "StableDiffusionXLPipeline": Base("unet", False, ATTENTION, _told_xl, _said_xl),
    "StableDiffusion3Pipeline": Base("transformer", True, JOINT, _told_3, _said_3),
    "FluxPipeline": Base("transformer", True, JOINT, _told_flux, _said_flux),
}
