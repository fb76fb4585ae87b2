"""LoRA of a base's denoiser as a recipe: latents at a time, and the error of what the net says of them.

Shapes: B pictures, C latent channels, H rows, W columns.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.order import Order
from pipeline.run.errors import UserError, nearest
from pipeline.train.recipe import Batch
from recipes.common.noise import normal, uniform
from recipes.common.one_net import OneNet
from recipes.diffusion.config import ZERO_STAGES
from recipes.diffusion.errors import SquaredErrors, misfit
from recipes.diffusion.objectives import noisy, time_of
from recipes.text_to_image_lora.bases import Base, base_of, load_net, load_scheduler
from recipes.text_to_image_lora.embed import Embedded, splits_of

if TYPE_CHECKING:
    from recipes.text_to_image_lora.config import Train

TIMES = 1000  # that every base's net counts in
EMPTY = -1  # the row of the empty caption


class Latents:
    """Implements pipeline.train.recipe.Split: a draw of a picture's latents, its time and noise, its caption's states.

    ordered: pictures in their order, else shuffled; middle: times lie about the middle, else evenly.
    """

    def __init__(
        self, embedded: Embedded, seed: int, stream: str, dropout: float, ordered: bool, middle: bool
    ):
        self.embedded, self.seed, self.stream, self.dropout = embedded, seed, stream, dropout
        self.middle = middle
        self.length = len(embedded.labels)
        self._order = Order(None if ordered else seed, self.length)
        self.start = float(uniform(seed, f"{stream}/time", 0))

    def item(self, index: int) -> dict[str, np.ndarray]:
        row = self._order.row(index)
        mean, deviation = self.embedded.moments[row]
        drawn = normal(self.seed, f"{self.stream}/latents", index, mean.shape)
        hidden = uniform(self.seed, f"{self.stream}/caption", index) < self.dropout
        label = EMPTY if hidden else int(self.embedded.labels[row])
        return {
            "latents": mean + deviation * drawn,
            "noise": normal(self.seed, f"{self.stream}/noise", index, mean.shape),
            "u": np.array(time_of(index, self.start, self.middle), np.float32),
            **{f"told.{name}": np.array(rows[label]) for name, rows in self.embedded.told.items()},
        }


class Denoiser(nn.Module):
    """The base's net with adapters, called alike whatever the base."""

    def __init__(self, base: Base, net: nn.Module):
        super().__init__()
        self.net, self._said = net, base.said

    def forward(self, x_BCHW: Tensor, timestep_B: Tensor, told: dict[str, Tensor]) -> Tensor:
        dtype = next(self.net.parameters()).dtype
        given = {name: value.to(dtype) for name, value in told.items()}
        return self._said(self.net, x_BCHW.to(dtype), timestep_B, given)


def with_adapters(net: nn.Module, base: Base, train: "Train") -> nn.Module:
    """The net, frozen, with fresh adapters that learn.

    Raises:
        UserError: no module has a name that was asked for.
    """
    from peft import LoraConfig

    net.requires_grad_(False)
    names = [name for name, module in net.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    wanted = train.target_modules or tuple(t for t in base.targets if any(name.endswith(t) for name in names))
    for target_module in wanted:
        if not any(name.endswith(target_module) for name in names):
            last = sorted({name.rpartition(".")[2] for name in names})
            raise UserError(
                f"train.target_modules: no layer's name ends in {target_module!r}\n{nearest(target_module, last)[:300]}"
            )
    settings = LoraConfig(
        r=train.r,
        lora_alpha=train.lora_alpha or train.r,
        init_lora_weights="gaussian",
        target_modules=list(wanted),
    )
    net.add_adapter(settings)
    return net


class Adapters(SquaredErrors, OneNet):
    """Implements pipeline.train.recipe.Recipe."""

    turns = ("model",)
    ema = ("model",)
    zero_stages = ZERO_STAGES
    unit = "images"

    def __init__(self, config: Any, prepared: Path, embedded: Path):
        super().__init__(config, prepared)
        self.embedded = embedded
        self.base = base_of(config.model.pretrained)
        self.scheduler = load_scheduler(config.model.pretrained)
        if not self.base.flow:
            self._kept = self.scheduler.alphas_cumprod.double().numpy()  # alpha squared of each time

    @cached_property
    def prediction(self) -> str:
        """epsilon, v or flow."""
        if self.base.flow:
            return "flow"
        return {"epsilon": "epsilon", "v_prediction": "v"}[self.scheduler.config.prediction_type]

    def data(self) -> Latents:
        split = Embedded.open(self.embedded, self.prepared, "train")
        train, flow = self.training, self.base.flow
        return Latents(split, train.seed, "train", train.caption_dropout, ordered=False, middle=flow)

    def held_out(self) -> Latents | None:
        if "held_out" not in splits_of(self.prepared):
            return None
        return self.in_order("held_out")

    def in_order(self, split: str) -> Latents:
        """A split as it lies, over and over, with every caption shown."""
        found = Embedded.open(self.embedded, self.prepared, split)
        return Latents(found, self.training.seed, f"{split}/scored", 0.0, ordered=True, middle=False)

    def blank(self, count: int) -> Batch:
        """A batch of `count` samples of the right shapes."""
        split = self.in_order("train")
        return self.collate([split.item(0)] * count)

    def nets(self) -> dict[str, nn.Module]:
        blank = torch.get_default_device().type == "meta"
        net = with_adapters(
            load_net(self.config.model.pretrained, self.base, blank), self.base, self.training
        )
        if self.training.gradient_checkpointing:
            net.enable_gradient_checkpointing()
        return {"model": Denoiser(self.base, net.train())}

    def count(self, turn: str, batch: Batch) -> int:
        """Numbers of latents."""
        return batch["latents"].numel()

    def errors(self, net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each picture's squared error of the prediction, summed over latents, and its weight; fp32 (B,) both."""
        timestep_B, alpha_B, sigma_B = self.times(batch["u"])
        x_t_BCHW = noisy(batch["latents"], batch["noise"], alpha_B, sigma_B)
        told = {name.removeprefix("told."): batch[name] for name in batch if name.startswith("told.")}
        said_BCHW = net(x_t_BCHW, timestep_B, told).float()
        x_BCHW, gamma = batch["latents"], self.training.min_snr_gamma
        return misfit(self.prediction, said_BCHW, x_BCHW, batch["noise"], alpha_B, sigma_B, gamma)

    def times(self, u_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(times of the net, alpha, sigma), (B,) each."""
        if self.base.flow:
            return TIMES * u_B, 1 - u_B, u_B
        timestep_B = (u_B * TIMES).floor()
        kept_B = torch.from_numpy(self._kept).to(u_B.device)[timestep_B.long()]
        return timestep_B, kept_B.sqrt().float(), (1 - kept_B).sqrt().float()

    def described(self) -> dict[str, Any]:
        return {"base": self.config.model.pretrained}

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """Nothing: the encoders are not in memory while the denoiser learns."""
        return {}
