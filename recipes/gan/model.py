"""The two nets: a generator from noise to points and a critic from points to scores."""

from torch import nn

from recipes.gan.config import Model


def build_critic(model: Model) -> nn.Sequential:
    """(B, 2) -> (B, 1)."""
    return _perceptron(2, 1, model)


def build_generator(model: Model) -> nn.Sequential:
    """(B, latent_size) -> (B, 2)."""
    return _perceptron(model.latent_size, 2, model)


def _perceptron(inputs: int, outputs: int, model: Model) -> nn.Sequential:
    sizes = [inputs] + [model.hidden_size] * model.hidden_layers
    layers: list[nn.Module] = []
    for before, after in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))
