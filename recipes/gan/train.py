"""Stage `train`: both nets, and the fp32 shadow of the generator that is scored and sampled."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.launch import check_launch, read_launch
from pipeline.plan import Batches
from pipeline.stage import Context
from recipes.gan.config import GanConfig

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.estimate import Size


def check(config: GanConfig) -> None:
    """Raises UserError for batches that do not divide and for a launch file that does not fit."""
    from recipes.gan.gan import ZERO_STAGES

    check_launch(config.run, config.train, ZERO_STAGES, config.train.critic, config.train.generator)


def estimate(config: GanConfig) -> "Size":
    """What both nets hold; their arithmetic is too small to plan for."""
    import torch

    from pipeline.activations import kept_bytes
    from pipeline.estimate import Size, moment_bytes
    from pipeline.optimizer import parameter_groups
    from pipeline.recipe import Clock
    from recipes.gan.gan import Gan

    recipe = Gan(config)
    micro = Batches.derive(config.train, read_launch(config.run).num_processes).micro
    with torch.device("meta"):
        nets = recipe.nets()
    parameters = sum(parameter.numel() for net in nets.values() for parameter in net.parameters())
    moments = sum(
        moment_bytes(parameter_groups(nets[turn], recipe.optimizers[turn])) for turn in recipe.turns
    )

    def critics_turn() -> "Tensor":
        sizes = {"point": 2, "nudge": 2, "latent": config.model.latent_size}
        batch = {name: torch.zeros(micro, size) for name, size in sizes.items()}
        return recipe.loss("critic", nets, batch, Clock(0, 0)).total

    activations = kept_bytes(nets.values(), critics_turn, torch.float32, autocast=False)
    return Size(parameters, parameters, moments, 0.0, activations)


def run(context: Context) -> dict[str, Any]:
    """Write critic.safetensors, generator.safetensors and, with an EMA, generator_ema.safetensors."""
    from pipeline.engine import start_runtime, stop_runtime
    from pipeline.fit import fit
    from recipes.gan.gan import Gan

    config: GanConfig = context.config
    runtime = start_runtime(config.run.threads)
    trainer = fit(Gan(config), context, runtime)
    for net in trainer.recipe.turns:
        weights = trainer.weights(net)
        if runtime.is_main:
            _save(weights, context.out / f"{net}.safetensors")
    if config.train.ema_decay:
        weights = trainer.weights("generator", ema=True)
        if runtime.is_main:
            _save(weights, context.out / "generator_ema.safetensors")
    stop_runtime()
    return {
        "steps": config.train.max_steps,
        "samples": config.train.max_steps * config.train.train_batch_size,
    }


def _save(weights: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file

    save_file(weights, path)


if __name__ == "__main__":
    from pipeline.stage import main

    main("train")
