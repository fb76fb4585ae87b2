"""The way from noise to pictures that every pipeline of ours goes: a picture's noise follows from its seed alone.

It imports diffusers and torch alone. Shapes: B pictures, C channels, H rows, W columns.
"""

from collections.abc import Callable

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from diffusers.schedulers import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor


class Denoising:
    """A part of a DiffusionPipeline that has a scheduler and one of `unet` and `transformer`."""

    @property
    def net(self) -> torch.nn.Module:
        return self.unet or self.transformer

    def noise(self, seeds: list[int]) -> Tensor:
        """The noise that pictures of `seeds` begin with, fp32 (B, C, H, W)."""
        return self._noise([torch.Generator().manual_seed(seed) for seed in seeds])

    def _noise(self, generators: list[torch.Generator]) -> Tensor:
        config = self.net.config
        shape = (len(generators), config.in_channels, config.sample_size, config.sample_size)
        return randn_tensor(shape, generator=generators, device=self._execution_device, dtype=torch.float32)

    def _denoised(
        self,
        seeds: list[int],
        said: Callable[[Tensor, Tensor], Tensor],
        steps: int,
        noise_BCHW: Tensor | None = None,
    ) -> Tensor:
        """One chunk, (B, C, H, W) about [-1, 1]. said: (noisy pictures, times (B,)) -> the prediction, fp32."""
        scheduler, device = self.scheduler, self._execution_device
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        x_BCHW = self._noise(generators) if noise_BCHW is None else noise_BCHW.to(device)
        flow = isinstance(scheduler, (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler))
        noisy_steps = {"generator": generators} if isinstance(scheduler, DDPMScheduler) else {}
        scheduler.set_timesteps(steps, device=device)
        if not flow:
            x_BCHW = x_BCHW * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            seen_BCHW = x_BCHW if flow else scheduler.scale_model_input(x_BCHW, timestep)
            said_BCHW = said(seen_BCHW, timestep.expand(len(seeds)))
            x_BCHW = scheduler.step(said_BCHW, timestep, x_BCHW, **noisy_steps).prev_sample
        return x_BCHW

    def _as(self, output_type: str, x_BCHW: Tensor):
        """Pictures about [-1, 1] as "pil", "np" in [0, 1] (B, H, W, C), or "pt" (B, C, H, W)."""
        x_BCHW = (x_BCHW / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return x_BCHW
        images = x_BCHW.cpu().permute(0, 2, 3, 1).float().numpy()
        return self.numpy_to_pil(images) if output_type == "pil" else images
