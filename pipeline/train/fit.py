"""What happens around the loop: resume, log, evaluate held-out samples, save, stop when asked."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.run.config import Run
from pipeline.run.errors import Interrupted, UserError
from pipeline.run.stage import Context
from pipeline.run.supervise import heeded
from pipeline.train import checkpoint
from pipeline.train.best import Best
from pipeline.train.drawing import Drawings, alarms
from pipeline.train.engine import NonFinite, Runtime
from pipeline.train.loop import StepInfo, Trainer, evaluate, steps
from pipeline.train.progress import Bar, Log, Meter
from pipeline.train.recipe import Recipe, Split, Sum
from pipeline.train.watch import Watch


def fit(recipe: Recipe, context: Context, runtime: Runtime) -> Trainer:
    """Train `recipe` to its last step, resuming from the newest checkpoint that verifies.

    Where `metric_for_best_model` names a figure, the trainer ends with the weights of its best evaluation.

    A run that shows no sign of life for `run.timeout` seconds ends, with every process's stacks in its log.

    Raises:
        UserError: the launcher's ZeRO stage is not one the recipe is tested under; no checkpoint verifies.
        NonFinite: the loss or a gradient; the message names the checkpoint that a later run resumes from.
        Interrupted: a signal asked to stop; a checkpoint was written first.
    """
    check_zero_stage(recipe.zero_stages, runtime.zero_stage)
    run = context.config.run
    word = context.logs / f"{context.stage.name}.error"
    with Watch(run.timeout, word, context.terminal.write, lambda: _last(context)) as watch:
        return _fit(recipe, context, runtime, watch)


def _fit(recipe: Recipe, context: Context, runtime: Runtime, watch: Watch) -> Trainer:
    trainer = Trainer(recipe, runtime)
    trainer.alive = watch.seen
    start, best = _resume(trainer, context)
    run = context.config.run
    log = Log.open(context.logs, context.stage.name, start, run.trackers, context.config, runtime)
    drawings = Drawings(context.logs, context.stage.name, start, trainer)
    meter, bar = Meter(recipe, runtime.world_size), Bar(context, recipe, start)
    trainer.updates = start
    try:
        with (
            listening() as stop_asked,
            checkpoint.Writer(context.checkpoints, run.save_total_limit, runtime) as writer,
            closing(
                steps(trainer, start, lambda: stop_asked() or writer.failed, SaveAsked(run, runtime))
            ) as updates,
        ):
            for info in () if best.exhausted(recipe.training) else updates:
                trainer.updates = info.step
                _after(info, trainer, context, log, meter, bar, drawings, best, writer)
                if best.exhausted(recipe.training):
                    break
            _waited(context, writer.finish)
        last = trainer.updates
        log.write(last, figures := held_out_means(trainer, run.eval_samples, last))
        if last == recipe.training.max_steps:
            best.see(last, figures, trainer, _kept(context))
        best.restore(trainer, _kept(context))
    except NonFinite as error:
        kept = _keep_batches(error, context, runtime)
        raise NonFinite(
            f"{error}{kept}\n{_last(context)}; the same command goes on from there and meets them again\n"
            "way out: a lower learning rate, or skip_nonfinite_steps, which leaves so many of such steps out"
        ) from None
    finally:
        bar.close()
        log.close()
    context.made.update(meter.summary(), launcher=runtime.describe(), world_size=runtime.world_size)
    if best.value is not None:
        context.made.update(best_step=best.step, best_figure=best.value, steps=last)
    return trainer


def _keep_batches(error: NonFinite, context: Context, runtime: Runtime) -> str:
    """Write the micro-batches that it came from, a file a process, to be looked at; says where."""
    from safetensors.torch import save_file

    tensors = {
        f"{number}/{key}": value.contiguous()
        for number, batch in error.batches
        for key, value in batch.items()
    }
    kept = context.logs / f"{context.stage.name}.step-{error.step:08d}.rank{runtime.rank}.safetensors"
    if tensors:
        save_file(tensors, kept)
    return f", kept in {kept.with_suffix('').with_suffix('')}.*"


def _kept(context: Context) -> Path:
    return context.checkpoints / "best"


def _after(
    info: StepInfo,
    trainer: Trainer,
    context: Context,
    log: Log,
    meter: Meter,
    bar: Bar,
    drawings: Drawings,
    best: Best,
    writer: checkpoint.Writer,
) -> None:
    """What is due after one step: a line in the log, held-out figures, samples, a checkpoint."""
    run, runtime, done = context.config.run, trainer.runtime, info.step == trainer.training.max_steps
    stop = info.stop or info.step == run.until_step
    meter.add(info)
    for error in info.skipped:
        kept = _keep_batches(error, context, runtime)
        context.terminal.write(f"warning: left out {error}{kept}\n")
        context.made["skipped_steps"] = sum(map(len, trainer.skipped.values()))
    if done or info.step % run.logging_steps == 0:
        log.write(info.step, figures := meter.take(info))
        bar.show(info.step, figures)
    if run.eval_steps and info.step % run.eval_steps == 0 and not done:
        log.write(info.step, figures := held_out_means(trainer, run.eval_samples, info.step))
        best.see(info.step, figures, trainer, _kept(context))
        done = best.exhausted(trainer.training)
        meter.pause()
    if run.sample_steps and (done or info.step % run.sample_steps == 0):
        log.write(info.step, figures := drawings.draw(info.step, run.sample_count))
        for alarm in alarms(figures):
            context.terminal.write(f"warning: step {info.step}: {alarm}\n")
        meter.pause()
    if done or stop or info.save or info.step % run.save_steps == 0:
        # A copy: it is written while training goes on.
        skipped = {turn: [*steps] for turn, steps in trainer.skipped.items() if steps}
        progress = {"samples": info.samples, **({"skipped": skipped} if skipped else {}), **best.progress()}
        _waited(context, lambda: writer.begin(info.step, trainer.tensors(), progress))
        meter.pause()
    if stop and not done:
        _waited(context, writer.finish)
        raise Interrupted(f"stopped on request after step {info.step}; the same command resumes there")


def check_zero_stage(tested: tuple[int, ...], stage: int | None) -> None:
    """Raises UserError for a ZeRO stage that the recipe does not declare."""
    if stage and stage not in tested:
        names = " or ".join(f"launch/zero{number}.yaml" for number in tested)
        raise UserError(
            f"this recipe is not tested under ZeRO-{stage}\nway out: --launch {names} or launch/ddp.yaml"
        )


def held_out_means(trainer: Trainer, samples: int, step: int) -> dict[str, float]:
    """`eval_` means over the first `samples` held-out samples (0: all of them)."""
    split = trainer.recipe.held_out()
    if split is None:
        return {}
    figures: dict[str, Sum] = evaluate(
        trainer, First(split, min(samples or split.length, split.length)), step
    )
    return {f"eval_{name}": figure.mean for name, figure in figures.items()}


@dataclass(frozen=True)
class First:
    """The first `length` samples of a split."""

    split: Split
    length: int

    def item(self, index: int) -> dict[str, Any]:
        return self.split.item(index)


def _resume(trainer: Trainer, context: Context) -> tuple[int, Best]:
    """Restore the newest checkpoint that verifies; return the updates already done, and the best of them."""
    found, damages = checkpoint.newest(context.checkpoints, trainer.runtime)
    for damaged in damages:
        context.terminal.write(f"warning: {damaged}; falling back to {found.name if found else 'nothing'}\n")
    if found is None:
        return 0, Best()
    reader = checkpoint.Reader(found)
    trainer.skipped |= reader.progress.get("skipped", {})
    trainer.load(reader, reader.step)
    context.terminal.write(f"{context.stage.name}: resuming after step {reader.step}\n")
    return reader.step, Best.of(reader.progress)


class SaveAsked:
    """Whether a checkpoint is asked for between those of save_steps: by the file OUTPUT_DIR/save, which goes as it is
    seen, or because save_minutes have passed since one was. Process 0 looks, for all."""

    def __init__(self, run: Run, runtime: Runtime):
        self.run, self.runtime, self.last = run, runtime, time.monotonic()

    def __call__(self) -> bool:
        if not self.runtime.is_main:
            return False
        minutes, now = self.run.save_minutes, time.monotonic()
        due = minutes is not None and now - self.last >= 60 * minutes
        if not (_taken(Path(self.run.output_dir) / "save") or due):
            return False
        self.last = now
        return True


def _taken(file: Path) -> bool:
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    return True


def _waited(context: Context, work: Callable[[], None]) -> None:
    """Do what training waits for, and count its seconds."""
    started = time.perf_counter()
    work()
    spent = context.made.get("checkpoint_seconds", 0.0) + time.perf_counter() - started
    context.made["checkpoint_seconds"] = round(spent, 3)


def _last(context: Context) -> str:
    published = checkpoint.published(context.checkpoints)
    return f"the last checkpoint is {published[-1]}" if published else "no checkpoint was written yet"


@contextmanager
def listening() -> Iterator[Callable[[], bool]]:
    """Within, a function that says whether a signal that asks to stop has arrived."""
    arrived: list[int] = []
    before = {
        number: signal.signal(number, lambda received, frame: arrived.append(received)) for number in heeded()
    }
    try:
        yield lambda: bool(arrived)
    except Exception:
        if "RANK" in os.environ:  # the launcher is about to ask all to stop, and this process has yet to say why
            before = dict.fromkeys(before, signal.SIG_IGN)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
