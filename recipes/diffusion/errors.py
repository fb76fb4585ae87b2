"""The loss of every denoiser: a weighed squared error of what it predicts, whatever it looks at.

Shapes: B pictures, C channels, H rows, W columns.
"""

from torch import Tensor, nn

from pipeline.train.recipe import Batch, Clock, Loss, Sum
from recipes.diffusion.objectives import target, weight


class SquaredErrors:
    """A part of pipeline.train.recipe.Recipe, of a recipe with one turn."""

    def count(self, turn: str, batch: Batch) -> int:
        """Numbers that are predicted."""
        raise NotImplementedError

    def errors(self, net: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Each picture's squared error of the prediction, summed over its numbers, and its weight; fp32 (B,) both."""
        raise NotImplementedError

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        errors_B, weights_B = self.errors(nets["model"], batch)
        return Loss((weights_B * errors_B).sum(), {"squared_error": errors_B.detach().sum()})

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        errors_B, weights_B = self.errors(nets["model"], batch)
        count = self.count("model", batch)
        weighted = (weights_B.double() * errors_B.double()).sum()
        return {
            "loss": Sum(float(weighted), count),
            "squared_error": Sum(float(errors_B.double().sum()), count),
        }


def misfit(
    prediction: str,
    said_BCHW: Tensor,
    x_BCHW: Tensor,
    noise_BCHW: Tensor,
    alpha_B: Tensor,
    sigma_B: Tensor,
    gamma: float | None,
) -> tuple[Tensor, Tensor]:
    """What SquaredErrors.errors returns. x: without noise; gamma: of min-SNR, None without."""
    wanted_BCHW = target(prediction, x_BCHW, noise_BCHW, alpha_B, sigma_B)
    errors_B = (said_BCHW - wanted_BCHW).square().flatten(1).sum(dim=1)
    return errors_B, weight(prediction, alpha_B, sigma_B, gamma)
