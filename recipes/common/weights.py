"""What a training stage of any image recipe leaves: the weights of each net, and of its shadow."""

from pathlib import Path

from pipeline.loop import Trainer


def save_weights(trainer: Trainer, out: Path) -> None:
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
