"""Pictures from noise with a class and guidance, as a diffusers pipeline: the file that an export takes with it.

It imports diffusers and torch alone. Shapes: B pictures, C channels, H rows, W columns.
"""

import torch
from diffusers import (
    DiffusionPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    ImagePipelineOutput,
    SchedulerMixin,
    UNet2DModel,
)
from diffusers.schedulers import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


class ClassConditionalPipeline(DiffusionPipeline):
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
        class_labels: list[int] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Pictures of `seeds`, with these labels, or of no class in particular.

        guidance_scale: 1 is the net's own prediction (arXiv:2207.12598: 1 + w); output_type: "pil", "np" in [0, 1]
        (B, H, W, C), or "pt" (B, C, H, W).
        """
        steps = num_inference_steps or self.config.num_inference_steps
        guidance = self.config.guidance_scale if guidance_scale is None else guidance_scale
        rows, size = len(seeds), self.config.batch_size
        padding = -rows % size
        seeds = [*seeds, *[0] * padding]
        labels = self._labels(class_labels, rows, padding)
        chunks = []
        for start in self.progress_bar(range(0, len(seeds), size)):
            label_B = None if labels is None else labels[start : start + size]
            chunks.append(self._draw(seeds[start : start + size], label_B, steps, guidance))
        x_BCHW = (torch.cat(chunks)[:rows] / 2 + 0.5).clamp(0, 1)
        images = self._as(output_type, x_BCHW)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _labels(self, given: list[int] | None, rows: int, padding: int) -> Tensor | None:
        """int64 (B,) on the net's device; None for a net without classes."""
        null = self.config.null_label
        if null is None:
            return None
        labels = [null] * rows if given is None else list(given)
        if len(labels) != rows or not all(0 <= label <= null for label in labels):
            raise ValueError(
                f"class_labels: expected {rows} of 0 to {null}, where {null} is no class: {labels[:8]}"
            )
        return torch.tensor([*labels, *[null] * padding], device=self._execution_device)

    def _draw(self, seeds: list[int], label_B: Tensor | None, steps: int, guidance: float) -> Tensor:
        """One chunk, (B, C, H, W) about [-1, 1]."""
        net, scheduler = self.unet or self.transformer, self.scheduler
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        size = net.config.sample_size
        shape = (len(seeds), net.config.in_channels, size, size)
        device = self._execution_device
        x_BCHW = randn_tensor(shape, generator=generators, device=device, dtype=torch.float32)
        flow = isinstance(scheduler, (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler))
        noisy_steps = {"generator": generators} if isinstance(scheduler, DDPMScheduler) else {}
        scheduler.set_timesteps(steps, device=device)
        if not flow:
            x_BCHW = x_BCHW * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            seen_BCHW = x_BCHW if flow else scheduler.scale_model_input(x_BCHW, timestep)
            said_BCHW = self._predict(net, seen_BCHW, timestep.expand(len(seeds)), label_B, guidance)
            x_BCHW = scheduler.step(said_BCHW, timestep, x_BCHW, **noisy_steps).prev_sample
        return x_BCHW

    def _predict(
        self,
        net: torch.nn.Module,
        x_BCHW: Tensor,
        timestep_B: Tensor,
        label_B: Tensor | None,
        guidance: float,
    ) -> Tensor:
        """The guided prediction, fp32: null + guidance (class - null) (arXiv:2207.12598, equation 6)."""
        said_BCHW = self._forward(net, x_BCHW, timestep_B, label_B)
        if guidance == 1 or label_B is None:
            return said_BCHW
        null_B = torch.full_like(label_B, self.config.null_label)
        null_BCHW = self._forward(net, x_BCHW, timestep_B, null_B)
        return null_BCHW + guidance * (said_BCHW - null_BCHW)

    def _forward(
        self, net: torch.nn.Module, x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor | None
    ) -> Tensor:
        said = net(x_BCHW.to(net.dtype), timestep_B, class_labels=label_B, return_dict=False)[0]
        return said.float()

    def _as(self, output_type: str, x_BCHW: Tensor):
        if output_type == "pt":
            return x_BCHW
        images = x_BCHW.cpu().permute(0, 2, 3, 1).float().numpy()
        return self.numpy_to_pil(images) if output_type == "pil" else images
