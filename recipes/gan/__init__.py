"""The GAN family: which stages a recipe has, what decides each one's output, and what it is made from."""

from pipeline.config import identity
from pipeline.stage import Stage
from recipes.gan.config import GanConfig

CONFIG = GanConfig


def stages(config: GanConfig) -> tuple[Stage, ...]:
    """Training on every process, then scores, samples and a page on one."""
    learned = {name: identity(getattr(config, name)) for name in ("data", "model", "train")}
    return (
        Stage("train", "recipes.gan.train", learned, launched=True),
        Stage("evaluate", "recipes.gan.evaluate", {"evaluate": identity(config.evaluate)}, ("train",)),
        Stage("sample", "recipes.gan.sample", {"sample": identity(config.sample)}, ("train",)),
        Stage("report", "pipeline.report", {}, ("train", "evaluate", "sample")),
    )
