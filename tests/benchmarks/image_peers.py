"""The loops that image recipes are raced against, told in our words: what each does a step, with the net it is given.

Every peer gets its pictures decoded and scaled in memory, which spares it its own per-picture transforms, and yields
the loss that it reads each step. Sources: diffusers' examples/unconditional_image_generation/train_unconditional.py,
denoising-diffusion-pytorch's Trainer, pytorch/examples vae/main.py and dcgan/main.py. An `Accelerator` has one
precision a process, so bf16 is the autocast that it would wrap around the forward. B pictures.
"""

import importlib.util
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

TIMES = 1000  # of the linear schedule


def batches(pictures: Tensor, labels: Tensor, size: int) -> Iterator[list[Tensor]]:
    """Shuffled batches without end, from the loader that all these examples use."""
    loader = DataLoader(TensorDataset(pictures, labels), batch_size=size, shuffle=True, drop_last=True)
    while True:
        yield from loader


def diffusers_script(
    net: nn.Module, pictures: Tensor, size: int, rate: float, bf16: bool, cpu: bool = True
) -> Iterator[float]:
    """AdamW, clipping at 1, an EMA a step, one `Accelerator` around it; predicts the noise."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    accelerator = Accelerator(cpu=cpu)
    device = accelerator.device
    scheduler = DDPMScheduler(num_train_timesteps=TIMES)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rates = get_scheduler("constant", optimizer=optimizer)
    model, optimizer, rates = accelerator.prepare(net, optimizer, rates)
    shadow = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
    for clean, _ in batches(pictures, torch.zeros(len(pictures)), size):
        clean = clean.to(device)
        noise = torch.randn(clean.shape, device=device)
        times = torch.randint(0, TIMES, (len(clean),), device=device)
        with accelerator.accumulate(model):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                said = model(scheduler.add_noise(clean, noise, times), times).sample
            loss = F.mse_loss(said.float(), noise)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rates.step()
            shadow.step(model.parameters())
            for parameter in model.parameters():
                parameter.grad = None
        yield loss.detach().item()


def has_denoising_diffusion() -> bool:
    return importlib.util.find_spec("denoising_diffusion_pytorch") is not None


class _Named(nn.Module):
    """A net with the attributes that GaussianDiffusion asks of its own."""

    self_condition, random_or_learned_sinusoidal_cond = False, False

    def __init__(self, net: nn.Module, channels: int):
        super().__init__()
        self.net, self.channels, self.out_dim = net, channels, channels

    def forward(self, x: Tensor, times: Tensor, condition: None = None) -> Tensor:
        return self.net(x, times).sample


def denoising_diffusion(
    net: nn.Module, pictures: Tensor, size: int, rate: float, bf16: bool
) -> Iterator[float]:
    """The package's GaussianDiffusion around the net, in the manner of its Trainer: Adam, clipping, EMA every tenth."""
    from accelerate import Accelerator
    from denoising_diffusion_pytorch import GaussianDiffusion
    from ema_pytorch import EMA

    accelerator = Accelerator(cpu=True)
    side, channels = pictures.shape[-1], pictures.shape[1]
    diffusion = GaussianDiffusion(
        _Named(net, channels), image_size=side, objective="pred_noise", beta_schedule="linear"
    )
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=rate, betas=(0.9, 0.99))
    shadow = EMA(diffusion, beta=0.995, update_every=10)
    model, optimizer = accelerator.prepare(diffusion, optimizer)
    for clean, _ in batches((pictures + 1) / 2, torch.zeros(len(pictures)), size):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(clean)
        total = loss.item()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        shadow.update()
        yield total


def pytorch_vae(
    net: nn.Module, pictures: Tensor, labels: Tensor, size: int, rate: float, latents: int
) -> Iterator[float]:
    """The VAE example: Adam, no clipping, no EMA, the loss read each step. pictures: uint8 (N, H, W, C)."""
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    for images, label in batches(pictures, labels, size):
        optimizer.zero_grad()
        bound = net(images, label, torch.randn(len(images), latents))
        loss = (bound.kl.sum(dim=1) - bound.log_prob).sum() / len(images)
        loss.backward()
        yield loss.item()
        optimizer.step()


def pytorch_dcgan(
    critic: nn.Module, generator: nn.Module, pictures: Tensor, size: int, rate: float, latents: int
) -> Iterator[float]:
    """The DCGAN example: the critic on real and on fake apart, then the generator; Adam for each, four figures read."""
    game = nn.BCEWithLogitsLoss()
    critics = torch.optim.Adam(critic.parameters(), lr=rate, betas=(0.5, 0.999))
    generators = torch.optim.Adam(generator.parameters(), lr=rate, betas=(0.5, 0.999))
    real, fake = torch.ones(size), torch.zeros(size)
    for images, _ in batches(pictures, torch.zeros(len(pictures)), size):
        critic.zero_grad()
        of_real = critic(images, None)
        on_real = game(of_real, real)
        on_real.backward()
        of_real.mean().item()
        drawn = generator(torch.randn(size, latents), None)
        of_fake = critic(drawn.detach(), None)
        on_fake = game(of_fake, fake)
        on_fake.backward()
        of_fake.mean().item()
        critics.step()
        generator.zero_grad()
        of_drawn = critic(drawn, None)
        fooled = game(of_drawn, real)
        fooled.backward()
        of_drawn.mean().item()
        generators.step()
        yield (on_real + on_fake).item()
