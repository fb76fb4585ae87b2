"""Stage `train` of every sibling family: fit its recipe, leave the weights of its nets and what builds them again."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.run.files import write_json
from pipeline.run.stage import Context
from pipeline.train.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.train.loop import Trainer

NETS = "nets.json"


class Described(Recipe, Protocol):
    """A recipe that says how its nets are built."""

    def described(self) -> dict[str, Any]:
        """What nets.json holds; nothing where settings alone build the nets."""


def train(
    recipe: Described, context: Context, also: Callable[[Path], None] = lambda out: None
) -> dict[str, Any]:
    """Write what `save_nets` does. also: writes what else belongs into the directory; process 0 calls it."""
    from pipeline.train.engine import start_runtime, stop_runtime
    from pipeline.train.fit import fit

    runtime = start_runtime(context.config.run.threads, timeout=context.config.run.timeout)
    trainer = fit(recipe, context, runtime)
    save_nets(trainer, recipe, context.out)
    if runtime.is_main:
        also(context.out)
    stop_runtime()
    steps = trainer.updates
    return {"steps": steps, recipe.unit: steps * recipe.training.train_batch_size}


def train_whole(
    recipe: Recipe, context: Context, save: "Callable[[Any, dict[str, Tensor], Path], None]"
) -> dict[str, Any]:
    """Fit a recipe of one net that is published whole, in the form of its library.

    save: (net, its trained weights, the shadow's where there is one; directory); process 0 calls it.
    """
    from pipeline.train.engine import start_runtime, stop_runtime
    from pipeline.train.fit import fit, held_out_means

    runtime = start_runtime(context.config.run.threads, timeout=context.config.run.timeout)
    trainer = fit(recipe, context, runtime)
    metrics = held_out_means(trainer, 0, trainer.updates)
    (turn,), steps = recipe.turns, trainer.updates
    weights = trainer.weights(turn, ema=bool(recipe.training.ema_decay))
    if runtime.is_main:
        save(recipe.nets()[turn], weights, context.out)
    stop_runtime()
    return metrics | {"steps": steps, recipe.unit: steps * recipe.training.train_batch_size}


def trained_here(recipe: Recipe) -> "Trainer":
    """Train `recipe` in this process alone, on the GPU where there is one, through the same steps as any net."""
    import torch

    from pipeline.train.engine import Runtime
    from pipeline.train.loop import Trainer, steps

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(recipe, Runtime(rank=0, world_size=1, device=device, zero_stage=None))
    for _ in steps(trainer):
        pass
    return trainer


def save_nets(trainer: "Trainer", recipe: Described, out: Path) -> None:
    """Write nets.json, where there is something to say, and the weights that `save_weights` does."""
    save_weights(trainer, out)
    if trainer.runtime.is_main and (described := recipe.described()):
        write_json(out / NETS, described)


def save_weights(trainer: "Trainer", out: Path) -> None:
    """Write NET.safetensors for every turn's net, and NET_ema.safetensors where it has a shadow, fp32.

    Every process takes part, for weights may be gathered; process 0 writes.
    """
    from safetensors.torch import save_file

    for turn in trainer.recipe.turns:
        for shadow in (False, True)[: 2 if turn in trainer.emas else 1]:
            weights = trainer.weights(turn, ema=shadow)
            if trainer.runtime.is_main:
                # A channels-last net gives weights that safetensors takes in the other order only.
                rows = {name: tensor.contiguous() for name, tensor in weights.items()}
                save_file(rows, out / f"{turn}{'_ema' if shadow else ''}.safetensors")
