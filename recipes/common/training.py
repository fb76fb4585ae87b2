"""Stage `train` of every sibling family: fit its recipe, leave the weights of its nets and what builds them again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.run.files import write_json
from pipeline.run.stage import Context
from pipeline.train.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.train.loop import Trainer

NETS = "nets.json"


class Described(Recipe, Protocol):
    """A recipe that says how its nets are built."""

    def described(self) -> dict[str, Any]:
        """What nets.json holds; nothing where settings alone build the nets."""


def train(recipe: Described, context: Context) -> dict[str, Any]:
    """Write nets.json and the weights that `save_weights` does."""
    from pipeline.train.engine import start_runtime, stop_runtime
    from pipeline.train.fit import fit

    runtime = start_runtime(context.config.run.threads)
    trainer = fit(recipe, context, runtime)
    save_weights(trainer, context.out)
    if runtime.is_main and (described := recipe.described()):
        write_json(context.out / NETS, described)
    stop_runtime()
    steps = trainer.updates
    return {"steps": steps, recipe.unit: steps * recipe.training.train_batch_size}


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
