"""The ring's two nets: a generator from noise to points and a critic from points to scores."""

from torch import Tensor, nn

from recipes.gan.config import Perceptrons


class Perceptron(nn.Sequential):
    """Linear layers with leaky rectifiers in between; it takes labels, as every net of a GAN, and the ring has none."""

    def __init__(self, inputs: int, outputs: int, model: Perceptrons):
        sizes = [inputs] + [model.hidden_size] * model.hidden_layers
        layers: list[nn.Module] = []
        for before, after in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Linear(sizes[-1], outputs))

    def forward(self, x: Tensor, labels: None = None) -> Tensor:
        return super().forward(x)


class Critic(Perceptron):
    """(B, 2) -> (B,)."""

    def __init__(self, model: Perceptrons):
        super().__init__(2, 1, model)

    def forward(self, x: Tensor, labels: None = None) -> Tensor:
        return super().forward(x).squeeze(1)


def build_critic(model: Perceptrons) -> Critic:
    return Critic(model)


def build_generator(model: Perceptrons) -> Perceptron:
    """(B, latent_size) -> (B, 2)."""
    return Perceptron(model.latent_size, 2, model)
