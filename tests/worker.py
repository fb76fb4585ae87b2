"""A program: every case that needs a launcher, one after the other in one process group; process 0 writes what it saw.

`python -m tests.worker OUT SHARED LAUNCHER [FROM]`: checkpoints go to SHARED/LAUNCHER; with FROM, those in SHARED/FROM
are resumed and nothing else is done. ZeRO-3 resumes those in SHARED/one beside its own cases. What is seen is judged
by the tests, not here.
"""

import json
import math
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.run.launch import UNSHARDED
from pipeline.run.stage import leave
from pipeline.train import checkpoint
from pipeline.train.drawing import Drawings
from pipeline.train.engine import NonFinite, Runtime, start_runtime, stop_runtime, zero
from pipeline.train.loop import Trainer, evaluate, steps
from recipes.gan.gan import Gan
from tests.helpers import Toy, digest, small_gan, toy_training
from tests.tiny_gan import tiny_gan

ACCUMULATIONS = (1, 4)
OPTIMS = ("adamw", "muon")
RESUMED = {
    "fp32 adamw": {},
    "fp32 muon": {"optim": "muon"},
    "bf16 adamw": {"bf16": True},
    "bf16 muon": {"bf16": True, "optim": "muon"},
    "fp32 lion": {"optim": "lion"},
    "fp32 adafactor": {"optim": "adafactor"},
    "fp32 adamw_8bit": {"optim": "adamw_8bit"},
    "fp32 schedule_free": {"optim": "schedule_free_adamw", "ema_decay": 0.0, "lr_scheduler_type": "constant"},
}


def trainer_of(
    runtime: Runtime, accumulation: int = 1, poison: str = "none", dropout: float = 0.0, **fields: Any
) -> Trainer:
    """A fresh toy; the last sample of its third step holds the poison, so one process alone sees it."""
    micro = 16 // runtime.world_size // accumulation
    training = toy_training(per_device_train_batch_size=micro, **fields)
    return Trainer(Toy(training, poison, poisoned=2 * 16 + 15, dropout=dropout), runtime)


def resumed_under(runtime: Runtime) -> dict[str, dict[str, Any]]:
    """What launch.UNSHARDED names is refused under ZeRO."""
    refused = UNSHARDED if runtime.zero_stage else {}
    return {name: given for name, given in RESUMED.items() if given.get("optim") not in refused}


def everywhere(runtime: Runtime, value: Any) -> list[Any]:
    """`value` of every process."""
    if runtime.world_size == 1:
        return [value]
    found = [None] * runtime.world_size
    torch.distributed.all_gather_object(found, value)
    return found


def weights_digest(trainer: Trainer, turn: str = "model") -> str:
    """The digest of the weights that this process computes with, gathered where they are sharded."""
    parameters = list(trainer.engines[turn].module.parameters())
    context: Any = nullcontext()
    if trainer.runtime.zero_stage == 3:
        import deepspeed

        context = deepspeed.zero.GatheredParameters(parameters)
    with context:
        return digest(parameters)


def state_digests(trainer: Trainer) -> dict[str, str]:
    return {key: digest([tensor]) for key, tensor in trainer.tensors()}


def parity(runtime: Runtime, optim: str, accumulation: int) -> dict[str, Any]:
    trainer = trainer_of(runtime, accumulation, optim=optim)
    rows = []
    for info in steps(trainer):
        loss, weight = info.sums["model/loss"], info.sums["model/weight"]
        digests = everywhere(runtime, weights_digest(trainer))
        rows.append(
            {
                "loss": loss.mean,
                "count": loss.count,
                "weight": weight.total,
                "norm": info.gradient_norms["model"],
                "digests": len(set(digests)),
                "digest": digests[0],
            }
        )
    weights = {name: tensor.flatten().tolist() for name, tensor in trainer.weights("model").items()}
    return {"rows": rows, "weights": weights}


def noise(runtime: Runtime) -> list[float]:
    """Losses with dropout, in micro-batches of four samples on any number of processes."""
    trainer = trainer_of(runtime, 4 // runtime.world_size, dropout=0.2)
    return [info.sums["model/loss"].mean for info in steps(trainer)]


def clipping(runtime: Runtime) -> dict[str, float]:
    """The norm that an update reports, and that of the gradient in AdamW's first moment after its first update."""
    trainer = trainer_of(runtime, max_grad_norm=0.01, adam_beta1=0.5, max_steps=1, warmup_steps=0)
    info = next(steps(trainer))
    squares = [
        float(moment.double().square().sum()) for _, moment in trainer.engines["model"].state(("exp_avg",))
    ]
    return {"reported": info.gradient_norms["model"], "applied": math.sqrt(sum(squares)) / (1 - 0.5)}


def not_finite(runtime: Runtime, poison: str, optim: str) -> list[dict[str, Any]]:
    """What each process saw of a step that must not happen."""
    trainer = trainer_of(runtime, accumulation=2, poison=poison, optim=optim)
    running = steps(trainer)
    for _ in range(2):
        next(running)
    before = (weights_digest(trainer), state_digests(trainer))
    try:
        raised = f"step {next(running).step} was done"
    except NonFinite as error:
        raised = f"NonFinite: {error}"
    after = (weights_digest(trainer), state_digests(trainer))
    return everywhere(runtime, {"raised": raised, "unchanged": before == after})


def skipping(runtime: Runtime, directory: Path, poison: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Five steps, the third poisoned and left out, with a checkpoint behind it; the last two again from there."""
    given = {"ema_decay": 0.5, "max_steps": 5, "skip_nonfinite_steps": 1, "poison": poison} | fields
    whole, states, skipped = trainer_of(runtime, 2, **given), {}, {}
    for info in steps(whole):
        states[info.step] = state_digests(whole)
        skipped[info.step] = [str(error) for error in info.skipped]
        if info.step == 3:
            checkpoint.save(directory, 3, whole.tensors(), {}, 1, runtime)
    resumed = trainer_of(runtime, 2, **given)
    resumed.skipped = {"model": [2]}
    resume_losses(resumed, directory)
    return everywhere(
        runtime,
        {
            "skipped": skipped,
            "changed": [step for step in range(2, 6) if states[step] != states[step - 1]],
            "resumed": state_digests(resumed) == states[5],
        },
    )


def resume(runtime: Runtime, directory: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Four steps without a break, with a checkpoint at the second, and the last two again from it."""
    whole = trainer_of(runtime, 2, **{"ema_decay": 0.5, "max_steps": 4} | fields)
    losses = []
    for info in steps(whole):
        losses.append(info.sums["model/loss"].mean)
        if info.step == 2:
            checkpoint.save(directory, 2, whole.tensors(), {}, 1, runtime)
    resumed = trainer_of(runtime, 2, **{"ema_decay": 0.5, "max_steps": 4} | fields)
    again = resume_losses(resumed, directory)
    states = [state_digests(whole), state_digests(resumed)]
    seen = [weights_digest(whole), weights_digest(resumed)]
    return {"losses": losses, "again": again, "states": states, "weights": everywhere(runtime, seen)}


def resume_losses(trainer: Trainer, directory: Path) -> list[float]:
    found, _ = checkpoint.newest(directory, trainer.runtime)
    reader = checkpoint.Reader(found)
    trainer.load(reader, reader.step)
    return [info.sums["model/loss"].mean for info in steps(trainer, reader.step)]


def evaluation(runtime: Runtime) -> dict[str, list[float]]:
    """The held-out (sum, count) at several batch sizes, after some training."""
    trainer = trainer_of(runtime, max_steps=2)
    list(steps(trainer))
    found = {}
    for size in (1, 3, 16):
        trainer.training = trainer.training.model_copy(update={"per_device_eval_batch_size": size})
        found[str(size)] = list(evaluate(trainer, trainer.recipe.held_out())["loss"])
    return found


def gan(runtime: Runtime, directory: Path, recipe: Callable[[], Gan]) -> dict[str, Any]:
    """Two nets in turn: which one each half-step changes, the losses, and the state after a resume."""
    whole = Trainer(recipe(), runtime)
    changes = watch_turns(whole)
    losses = []
    for info in steps(whole):
        losses.append([info.sums[f"{turn}/loss"].mean for turn in whole.recipe.turns])
        if info.step == 2:
            checkpoint.save(directory, 2, whole.tensors(), {}, 1, runtime)
    resumed = Trainer(recipe(), runtime)
    found, _ = checkpoint.newest(directory, runtime)
    resumed.load(checkpoint.Reader(found), 2)
    for _ in steps(resumed, 2):
        pass
    states = [state_digests(whole), state_digests(resumed)]
    return {"changes": everywhere(runtime, changes), "losses": losses, "states": states}


def drawing(runtime: Runtime, directory: Path) -> dict[str, Any]:
    """Four steps with a shadow, undisturbed and with samples drawn after each of them."""
    alone, drawn = (trainer_of(runtime, 2, ema_decay=0.5, max_steps=4, bf16=True, dropout=0.2) for _ in "12")
    drawings = Drawings(directory, "train", 0, drawn)
    losses = [[info.sums["model/loss"].mean for info in steps(alone)], []]
    figures = []
    for info in steps(drawn):
        losses[1].append(info.sums["model/loss"].mean)
        figures.append(drawings.draw(info.step, 3))
    states = [state_digests(alone), state_digests(drawn)]
    return {"losses": losses, "figures": everywhere(runtime, figures), "states": states}


def watch_turns(trainer: Trainer) -> list[list[str]]:
    """A list that grows by the names of the nets that changed, at each update from now on."""
    changes: list[list[str]] = []
    last = {turn: weights_digest(trainer, turn) for turn in trainer.engines}

    def watched(update: Callable[[float], float]) -> Callable[[float], float]:
        def watching(factor: float) -> float:
            norm = update(factor)
            now = {turn: weights_digest(trainer, turn) for turn in trainer.engines}
            changes.append([turn for turn in now if now[turn] != last[turn]])
            last.update(now)
            return norm

        return watching

    for one in trainer.engines.values():
        one.update = watched(one.update)
    return changes


def cases(runtime: Runtime, shared: Path, launcher: str, source: str | None) -> dict[str, Callable[[], Any]]:
    if source is not None:
        return {"resumed": lambda: resumed_from(runtime, shared / source)}
    own = shared / launcher
    found: dict[str, Callable[[], Any]] = {
        "runtime": lambda: {**asdict(runtime), "device": str(runtime.device), "launcher": runtime.describe()}
    }
    for optim in OPTIMS:
        for accumulation in ACCUMULATIONS:
            name = f"parity {optim} {accumulation}"
            found[name] = lambda optim=optim, accumulation=accumulation: parity(runtime, optim, accumulation)
    found["noise"] = lambda: noise(runtime)
    found["clipping"] = lambda: clipping(runtime)
    for poison in ("loss", "gradient"):
        for optim in OPTIMS:
            name = f"not finite {poison} {optim}"
            found[name] = lambda poison=poison, optim=optim: not_finite(runtime, poison, optim)
    for name, fields in resumed_under(runtime).items():
        for poison in ("loss", "gradient") if name == "fp32 adamw" else ("gradient",):
            found[f"skipping {poison} {name}"] = partial(
                skipping, runtime, own / f"skipping {poison} {name}", poison, fields
            )
        found[f"resume {name}"] = lambda name=name, fields=fields: resume(runtime, own / name, fields)
    if launcher == "zero3":
        found["resumed"] = lambda: resumed_from(runtime, shared / "one")
    found["evaluation"] = lambda: evaluation(runtime)
    found["drawing"] = lambda: drawing(runtime, own)
    if runtime.zero_stage != 3:
        prepared = own / f"prepared-{runtime.rank}"
        image_gan, half = partial(tiny_gan, prepared), partial(tiny_gan, prepared, "train.bf16=true")
        found["gan"] = lambda: gan(runtime, own / "gan", partial(small_gan, runtime.world_size))
        found["image gan"] = lambda: gan(runtime, own / "image gan", image_gan)
        found["image gan in bf16"] = lambda: gan(runtime, own / "image gan in bf16", half)
    return found


def resumed_from(runtime: Runtime, source: Path) -> dict[str, list[float]]:
    return {
        name: resume_losses(
            trainer_of(runtime, 2, **{"ema_decay": 0.5, "max_steps": 4} | fields), source / name
        )
        for name, fields in resumed_under(runtime).items()
        if (source / name).is_dir()
    }


def shard_matrices() -> None:
    """Under ZeRO-3 shard the toy's matrices, and keep its vectors whole as a large model's are."""
    config_of = zero.deepspeed_config

    def config(*arguments: Any) -> dict[str, Any]:
        found = config_of(*arguments)
        found["zero_optimization"]["stage3_param_persistence_threshold"] = 100
        return found

    zero.deepspeed_config = config


def main(out: Path, shared: Path, launcher: str, source: str | None = None) -> None:
    runtime = start_runtime(threads=1)
    shard_matrices()
    report = {name: case() for name, case in cases(runtime, shared, launcher, source).items()}
    if runtime.is_main:
        out.write_text(json.dumps(report))
    stop_runtime()
    leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
