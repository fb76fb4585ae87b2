"""What a GAN imitates: the one seam between the two turns in gan.py and the ring or the pictures."""

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from pipeline.train.recipe import Batch, Split, Sum
from recipes.gan.config import GanConfig, RingConfig


class Subject(Protocol):
    """Where real samples come from, which nets fit them, and what is said of generated ones.

    Every item of its splits holds `latent` (latent_size,), standard normal; where slopes are penalised `nudge`,
    standard normal and shaped as what the critic sees; `label` () where samples have classes.
    """

    unit: str

    def data(self) -> Split: ...

    def held_out(self) -> Split: ...

    def blank(self, count: int) -> Batch:
        """A batch of `count` samples of the right shapes, for the estimate of a plan."""

    def nets(self) -> dict[str, nn.Module]:
        """`critic`: (sample, labels) -> scores (B,); `generator`: (latents, labels) -> samples; both fp32 outside."""

    def described(self) -> dict[str, Any]:
        """All that builds the nets again, as plain JSON data; nothing where the settings do."""

    def real(self, batch: Batch) -> Tensor:
        """The real samples as the critic sees them, (B, ...)."""

    def on_the_way(self, samples: Tensor, batch: Batch, real: bool) -> Tensor:
        """What samples go through before the critic sees them."""

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch) -> dict[str, Sum]: ...

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]: ...


def subject_of(config: GanConfig, prepared: Path | None) -> Subject:
    """prepared: the published pictures; the ring needs none, nor does an estimate."""
    if isinstance(config, RingConfig):
        from recipes.gan.ring import RingSubject

        return RingSubject(config)
    from recipes.gan.images import ImageSubject

    return ImageSubject(config, prepared)
