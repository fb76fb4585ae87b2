"""Which weights of a `train` artifact pictures are drawn by."""

from pathlib import Path

from recipes.pixelcnn.config import PixelCnnConfig
from recipes.pixelcnn.drawing import Sampler, sampler_of
from recipes.pixelcnn.nets import load_net


def weight_files(config: PixelCnnConfig) -> dict[str, str]:
    """Safetensors of a `train` artifact by name, the one to be used first."""
    shadow = {"EMA": "pixelcnn_ema.safetensors"} if config.train.ema_decay else {}
    return {**shadow, "last step": "pixelcnn.safetensors"}


def load_samplers(config: PixelCnnConfig, prepared: Path, trained: Path) -> dict[str, Sampler]:
    """Draws by the best weights."""
    name, file = next(iter(weight_files(config).items()))
    return {name: sampler_of(load_net(trained, file))}
