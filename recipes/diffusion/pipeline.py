"""Pictures from noise with a class and guidance, as a diffusers pipeline, which an export takes with it.

It imports diffusers and torch alone. Shapes: B pictures, C channels, H rows, W columns.
"""

from functools import partial

import torch
from diffusers import (
    DiffusionPipeline,
    DiTTransformer2DModel,
    ImagePipelineOutput,
    SchedulerMixin,
    UNet2DModel,
)
from torch import Tensor

from recipes.diffusion.denoising import Denoising


class ClassConditionalPipeline(Denoising, DiffusionPipeline):
    """Draws picture i from `torch.Generator().manual_seed(seeds[i])` and class_labels[i] alone.

    unet, transformer: one of the two; null_label: the label of "no class", None for a net without classes;
    num_inference_steps, guidance_scale: what it was published with; batch_size: pictures of one forward. Every
    forward has that many, for a matrix product's rounding depends on its rows.
    """

    _optional_components = ["unet", "transformer"]

    def __init__(
        self,
        scheduler: SchedulerMixin,
        unet: UNet2DModel | None = None,
        transformer: DiTTransformer2DModel | None = None,
        null_label: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 1.0,
        batch_size: int = 50,
    ):
        super().__init__()
        self.register_modules(scheduler=scheduler, unet=unet, transformer=transformer)
        self.register_to_config(
            null_label=null_label,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            batch_size=batch_size,
        )

    @torch.no_grad()
    def __call__(
        self,
        seeds: list[int],
        class_labels: list[int | dict[int, float]] | None = None,
        latents: Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Pictures of `seeds`, with these labels, or of no class in particular.

        class_labels: a label, or several with weights that add up to 1: their predictions are weighed (as in
        arXiv:2206.01714); latents: the noise to begin with, (B, C, H, W), in place of that of the seeds;
        guidance_scale: 1 is the net's own prediction (arXiv:2207.12598: 1 + w); output_type: "pil", "np" in [0, 1]
        (B, H, W, C), or "pt" (B, C, H, W).
        """
        steps = num_inference_steps or self.config.num_inference_steps
        guidance = self.config.guidance_scale if guidance_scale is None else guidance_scale
        rows, size = len(seeds), self.config.batch_size
        padding = -rows % size
        seeds = [*seeds, *[0] * padding]
        labels = self._labels(class_labels, rows, padding)
        noise = None if latents is None else torch.cat([latents, latents[:1].expand(padding, -1, -1, -1)])
        chunks = []
        for start in self.progress_bar(range(0, len(seeds), size)):
            part = slice(start, start + size)
            asked = [(label_B[part], weight_B[part]) for label_B, weight_B in labels]
            said = partial(self._predict, asked=asked, guidance=guidance)
            chunks.append(self._denoised(seeds[part], said, steps, None if noise is None else noise[part]))
        images = self._as(output_type, torch.cat(chunks)[:rows])
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _labels(self, given: list | None, rows: int, padding: int) -> list[tuple[Tensor, Tensor]]:
        """(labels int64 (B,), their weights fp32 (B,)) of every part of the mixtures; [] for a net without classes."""
        null = self.config.null_label
        if null is None:
            return []
        asked = [{null: 1.0}] * rows if given is None else [_weighed(label) for label in given]
        net = self.net
        last = net.config.num_embeds_ada_norm if self.unet is None else net.config.num_class_embeds - 1
        if len(asked) != rows or not all(0 <= label <= last for mixture in asked for label in mixture):
            raise ValueError(
                f"class_labels: expected {rows} of 0 to {last}, where {null} is no class: {given[:8]}"
            )
        asked += [{null: 1.0}] * padding
        parts = []
        for part in range(max(map(len, asked))):
            chosen = [(list(mixture.items()) + [(null, 0.0)] * (part + 1))[part] for mixture in asked]
            labels, weights = zip(*chosen, strict=True)
            device = self._execution_device
            parts.append((torch.tensor(labels, device=device), torch.tensor(weights, device=device)))
        return parts

    def _predict(
        self, x_BCHW: Tensor, timestep_B: Tensor, asked: list[tuple[Tensor, Tensor]], guidance: float
    ) -> Tensor:
        """The guided prediction, fp32: null + guidance (class - null) (arXiv:2207.12598, equation 6)."""
        if not asked:
            return self._forward(x_BCHW, timestep_B, None)
        said_BCHW = self._forward(x_BCHW, timestep_B, asked[0][0])
        if len(asked) > 1:
            said_BCHW = said_BCHW * asked[0][1][:, None, None, None]
            for label_B, weight_B in asked[1:]:
                weight_B111 = weight_B[:, None, None, None]
                said_BCHW = said_BCHW + weight_B111 * self._forward(x_BCHW, timestep_B, label_B)
        if guidance == 1:
            return said_BCHW
        null_B = torch.full_like(asked[0][0], self.config.null_label)
        null_BCHW = self._forward(x_BCHW, timestep_B, null_B)
        return null_BCHW + guidance * (said_BCHW - null_BCHW)

    def _forward(self, x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor | None) -> Tensor:
        net = self.net
        said = net(x_BCHW.to(net.dtype), timestep_B, class_labels=label_B, return_dict=False)[0]
        return said.float()


def _weighed(label: int | dict[int, float]) -> dict[int, float]:
    """A label alone is a mixture of one."""
    return label if isinstance(label, dict) else {label: 1.0}
