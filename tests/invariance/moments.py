"""A program: runs of a small model that are stopped at chosen moments and go on; process 0 writes what differed.

`python -m tests.invariance.moments OUT SHARED exact WORK...` compares, for each moment of MOMENTS, what an interrupted
run did with what an uninterrupted one did. `... SHARED elastic FOLDER UNTIL` takes a run in FOLDER on to step UNTIL.
"""

import hashlib
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from pipeline.data.packing import PackedDocuments
from pipeline.data.shards import Shard
from pipeline.lm.config import Lora
from pipeline.lm.recipe import LanguageModel
from pipeline.lm.tuning.lora import add_adapters
from pipeline.run.config import Run, Section, Training
from pipeline.run.errors import Interrupted
from pipeline.run.stage import Context, Stage, leave
from pipeline.train import checkpoint, fit, loop
from pipeline.train.engine import Runtime, start_runtime, stop_runtime
from pipeline.train.loop import Trainer
from pipeline.train.recipe import Recipe
from tests.tiny_language_model import VOCABULARY, random_documents, shard_of, tiny_model
from tests.tiny_preferences import preference_model, random_units, shard_of_answers
from tests.worker import everywhere, state_digests

STEPS, EPOCH, SAVE, EVALUATE = (
    7,
    3,
    2,
    3,
)  # steps: in all, in an epoch, between checkpoints, between evaluations
BATCH, MICRO, LENGTH = 12, 2, 16  # of 1, 2 and 3 processes alike: 6, 3 and 2 micro-batches each
MEASURED = ("per_second", "seconds", "wait_share")  # ends of the names of what differs from run to run
DROPOUT = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}


def prepare(shared: Path) -> None:
    """Documents of EPOCH x BATCH rows, and as many pairs of answers."""
    (shared / "documents").mkdir()
    shard_of(shared / "documents", random_documents(*[24] * (EPOCH * BATCH * LENGTH // 24)))
    shard_of_answers(shared / "pairs", *random_units(EPOCH * BATCH), VOCABULARY)


def _pretrain(shared: Path, settings: dict[str, Any]) -> Recipe:
    shard = Shard.open(shared / "documents", "documents")
    rows, held = PackedDocuments(shard, LENGTH, 0), PackedDocuments(shard, LENGTH, None)
    assert rows.length == EPOCH * BATCH
    build = partial(tiny_model, "gpt2", LENGTH, **DROPOUT)
    return LanguageModel(Training(learning_rate=1e-2, **settings), build, rows, held, LENGTH)


def _lora(shared: Path, settings: dict[str, Any]) -> Recipe:
    recipe = _pretrain(shared, settings)
    adapters = Lora(r=4, lora_dropout=0.1)
    recipe.build = lambda: add_adapters(tiny_model("llama", LENGTH), adapters)
    return recipe


def _prefer(shared: Path, settings: dict[str, Any]) -> Recipe:
    return preference_model(Shard.open(shared / "pairs", "preferences"), settings, packed=False)


WORKS: dict[str, Callable[[Path, dict[str, Any]], Recipe]] = {
    f"{name}, {precision}": partial(lambda make, bf16, shared: make(shared, _settings(bf16)), make, bf16)
    for name, make in (("pretrain", _pretrain), ("LoRA", _lora), ("DPO", _prefer))
    for precision, bf16 in (("fp32", False), ("bf16", True))
}


def _settings(bf16: bool) -> dict[str, Any]:
    return {
        "train_batch_size": BATCH, "per_device_train_batch_size": MICRO, "max_steps": STEPS, "ema_decay": 0.5,
        "bf16": bf16, "lr_scheduler_type": "cosine", "warmup_steps": 2, "max_grad_norm": 1.0,
    }  # fmt: skip


class OneStage(Section):
    """What `fit` asks of a config."""

    run: Run


def ask() -> None:
    """As a scheduler asks a process to stop."""
    os.kill(os.getpid(), signal.SIGTERM)


def fail() -> None:
    raise RuntimeError("a failure in the middle")


def _at_micro_batch(step: int, number: int, harm: Callable[[], None]) -> Any:
    """Within, `harm` is done before the forward of a step's micro-batch of that number on this process, once."""
    turn, seen, done = loop._turn, [0], []

    def counted(trainer: Trainer, name: str, fed: list, at: int, asked: tuple[float, float]) -> Any:
        loss = trainer.recipe.loss

        def harmed(*given: Any) -> Any:
            seen[0] += 1
            if at + 1 == step and seen[0] == number and not done:
                done.append(True)
                harm()
            return loss(*given)

        seen[0] = 0
        with mock.patch.object(trainer.recipe, "loss", harmed):
            return turn(trainer, name, fed, at, asked)

    return mock.patch.object(loop, "_turn", counted)


def _while_evaluating(harm: Callable[[], None]) -> Any:
    evaluate, done = fit.evaluate, []

    def harmed(trainer: Trainer, split: Any, step: int) -> Any:
        if not done:
            done.append(True)
            harm()
        return evaluate(trainer, split, step)

    return mock.patch.object(fit, "evaluate", harmed)


def _while_saving(harm: Callable[[], None]) -> Any:
    begin, done = checkpoint.Writer.begin, []

    def harmed(writer: checkpoint.Writer, step: int, tensors: Any, progress: dict) -> None:
        begin(writer, step, tensors, progress)
        if step == 2 * SAVE and not done:
            done.append(True)
            harm()

    return mock.patch.object(checkpoint.Writer, "begin", harmed)


# Each is done by one process alone, the last; how the run ends is the same on all.
MOMENTS: dict[str, Callable[[], Any]] = {
    "asked in the first step": lambda: _at_micro_batch(1, 1, ask),
    "asked between micro-batches": lambda: _at_micro_batch(4, 2, ask),
    "asked within an epoch": lambda: _at_micro_batch(2, 1, ask),
    "asked in the last step of an epoch": lambda: _at_micro_batch(EPOCH, 1, ask),
    "asked in the last step": lambda: _at_micro_batch(STEPS, 1, ask),
    "asked while evaluating": lambda: _while_evaluating(ask),
    "asked while saving": lambda: _while_saving(ask),
    "failed in the last step": lambda: _at_micro_batch(STEPS, 2, fail),
    "failed while evaluating": lambda: _while_evaluating(fail),
    "failed while saving": lambda: _while_saving(fail),
}
FAILING = [name for name in MOMENTS if name.startswith("failed")]


def _context(folder: Path, until: int | None = None) -> Context:
    for each in (folder, folder / "checkpoints", folder / "logs"):
        each.mkdir(exist_ok=True)
    run = Run(output_dir=folder, logging_steps=1, save_steps=SAVE, eval_steps=EVALUATE, until_step=until)
    places = {"out": folder / "out", "checkpoints": folder / "checkpoints", "logs": folder / "logs"}
    return Context(OneStage(run=run), Stage("train", "", {}), {}, terminal=io.StringIO(), **places)


def trained(
    recipe: Recipe, folder: Path, runtime: Runtime, fed: dict[int, set], until: int | None = None
) -> Any:
    """Train in `folder` as far as it goes: the trainer, or what ended it. fed: the batches of each step, by digest."""
    loss = recipe.loss

    def noted(turn: str, nets: Any, batch: dict, clock: Any) -> Any:
        whole = b"".join(batch[key].cpu().numpy().tobytes() for key in sorted(batch))
        if torch.is_grad_enabled():  # an evaluation has the same loss
            fed.setdefault(clock.step, set()).add((clock.samples, hashlib.sha256(whole).hexdigest()))
        return loss(turn, nets, batch, clock)

    recipe.loss = noted
    try:
        return fit.fit(recipe, _context(folder, until), runtime)
    except (Interrupted, RuntimeError) as error:
        return error


def lines(folder: Path) -> list[dict[str, Any]]:
    """The log, without what is measured."""
    found = map(json.loads, (folder / "logs" / "train.metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if not key.endswith(MEASURED)} for line in found]


def differing(work: str, shared: Path, folder: Path, runtime: Runtime) -> dict[str, str]:
    """Of each moment, in what the interrupted run was another; empty where in nothing."""
    whole: dict[int, set] = {}
    uninterrupted = trained(WORKS[work](shared), folder / "whole", runtime, whole)
    expected = (state_digests(uninterrupted), everywhere(runtime, sorted(whole.items())))
    found = {}
    for moment, harmed in MOMENTS.items():
        if moment in FAILING and runtime.world_size > 1:
            continue  # the others wait for it: tests.faults fails one of several, from outside
        fed: dict[int, set] = {}
        here = folder / "interrupted"
        with harmed() if runtime.rank == runtime.world_size - 1 else nullcontext():
            first = trained(WORKS[work](shared), here, runtime, fed)
        again = first
        if not isinstance(first, Trainer):
            again = trained(WORKS[work](shared), here, runtime, fed)
        wrong = []
        if isinstance(first, Trainer) != (moment == "asked in the last step"):
            wrong.append(f"the first part ended with {first!r}")
        if state_digests(again) != expected[0]:
            wrong.append("weights, averages or moments")
        if everywhere(runtime, sorted(fed.items())) != expected[1]:
            wrong.append("samples")
        if runtime.is_main and lines(here) != lines(folder / "whole"):
            wrong.append("losses, rates or norms")
        found[moment] = " and ".join(wrong)
        runtime.barrier()
        if runtime.is_main:
            shutil.rmtree(here)
        runtime.barrier()
    return found


def main(out: Path, shared: Path, mode: str, *given: str) -> None:
    runtime = start_runtime(threads=1)
    if mode == "exact":
        folder = Path(everywhere(runtime, str(out.parent / "runs"))[0])
        folder.mkdir(exist_ok=True)
        report: Any = {}
        for work in given:
            place = folder / work
            place.mkdir(exist_ok=True)
            report[work] = differing(work, shared, place, runtime)
    else:
        fed: dict[int, set] = {}
        ended = trained(WORKS["pretrain, fp32"](shared), Path(given[0]), runtime, fed, int(given[1]))
        report = {"ended": type(ended).__name__, "fed": everywhere(runtime, [*map(list, _flat(fed))])}
    if runtime.is_main:
        out.write_text(json.dumps(report))
    stop_runtime()
    leave(0)


def _flat(fed: dict[int, set]) -> list[tuple]:
    return sorted((step, *each) for step, batches in fed.items() for each in batches)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
