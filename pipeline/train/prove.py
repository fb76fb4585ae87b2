"""`headwater prove`: the steps to a stage's last checkpoint made again from the one before it, and compared."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.launch import launch_command, launch_environment, read_launch
from pipeline.run.stage import MICRO_BATCH, Stage, checkpoints_of, directory_of, upstream
from pipeline.run.supervise import run_process
from pipeline.train import checkpoint

MEASURED = ("_per_second",)  # figures of a log line that are the clock's


def prove(config: Any, stages: tuple[Stage, ...], stage: Stage, recipe: Path, overrides: list[str]) -> str:
    """Train again from the checkpoint before the last, in a scratch directory, up to the last; say what is equal.

    Raises:
        UserError: the stage does not train, or has fewer than two checkpoints; the repeated steps failed, or differ.
    """
    if not stage.launched:
        raise UserError(f"{stage.name} does not train: it has no checkpoints to go on from")
    published = checkpoint.published(checkpoints_of(config, stage.name))
    if len(published) < 2:
        raise UserError(
            f"{checkpoints_of(config, stage.name)} holds {len(published)} checkpoints, and two are compared\n"
            "way out: a smaller run.save_steps, and run.save_total_limit=2 or more"
        )
    before, last = published[-2:]
    if wrong := checkpoint.damage(before) or checkpoint.damage(last):
        raise UserError(f"{wrong}\nway out: delete it; `headwater run` goes on from one that verifies")
    scratch = Path(config.run.output_dir) / ".partial" / f"prove-{stage.name}"
    shutil.rmtree(scratch, ignore_errors=True)
    _lay_out(config, stages, stage, before, scratch)
    step = json.loads((last / checkpoint.MANIFEST).read_text())["step"]
    again = [f"run.output_dir={scratch}", f"run.until_step={step}", "run.save_total_limit=2"]
    launch = read_launch(config.run)
    command = launch_command(launch, stage.module, [str(recipe), *overrides, *again])
    log = scratch / "logs" / f"{stage.name}.launch.log"
    code, _ = run_process(command, log, launch_environment(launch))
    made = scratch / "checkpoints" / stage.name / last.name
    if code not in (0, 3) and not (made / checkpoint.MANIFEST).is_file():
        raise UserError(f"the steps could not be made again: {_why(scratch, stage.name, log)}")
    tensors, wrong = _compared(made, last)
    lines, wrong_lines = _same_lines(Path(config.run.output_dir), scratch, stage.name, before, last)
    if differing := wrong + wrong_lines:
        raise UserError(
            f"{stage.name}: {last.name} made again from {before.name} is another: {len(differing)} differences\n"
            f"first: {differing[0]}\nwhat was made again: {scratch}"
        )
    shutil.rmtree(scratch)
    return (
        f"{stage.name}: {last.name} made again from {before.name}: all {tensors} tensors of weights and optimizer "
        f"equal bit for bit, and {lines} lines of the log"
    )


def _lay_out(config: Any, stages: tuple[Stage, ...], stage: Stage, before: Path, scratch: Path) -> None:
    """A run that has got as far as `before`: its inputs by link, its checkpoint too."""
    checkpoints = scratch / "checkpoints" / stage.name
    checkpoints.mkdir(parents=True)
    (scratch / "logs").mkdir()
    for name in upstream(stages, stage.name):
        (scratch / name).symlink_to(directory_of(config, name).absolute())
    for name in ("identity.json", MICRO_BATCH):
        shutil.copy(before.parent / name, checkpoints / name)
    shutil.copytree(before, checkpoints / before.name, copy_function=os.link)


def _compared(made: Path, last: Path) -> tuple[int, list[str]]:
    """(tensors that both hold, what differs)."""
    first, second = checkpoint.Reader(made), checkpoint.Reader(last)
    keys = first.keys() | second.keys()
    wrong = [f"{key}: only one of the two has it" for key in sorted(first.keys() ^ second.keys())]
    for key in sorted(first.keys() & second.keys()):
        here, there = first(key), second(key)
        if not here.equal(there):
            wrong.append(f"{key}: by up to {(here - there).abs().max().item():.3g}")
    return len(keys), wrong


def _same_lines(output: Path, scratch: Path, name: str, before: Path, last: Path) -> tuple[int, list[str]]:
    """(lines of the log between the two checkpoints that both runs wrote, those that differ).

    The first line behind `before` is left out: it may hold means over steps before it.
    """
    lines = [_lines(folder / "logs" / f"{name}.metrics.jsonl") for folder in (output, scratch)]
    first, until = (int(each.name.removeprefix("step-")) for each in (before, last))
    steps = [step for step in sorted(lines[0].keys() & lines[1].keys()) if first < step <= until][1:]
    wrong = [f"the log of step {step}" for step in steps if lines[0][step] != lines[1][step]]
    return len(steps), wrong


def _lines(log: Path) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for line in log.read_text().splitlines() if log.is_file() else ():
        figures = json.loads(line)
        kept = {key: value for key, value in figures.items() if not key.endswith(MEASURED)}
        found.setdefault(figures["step"], {}).update(kept)
    return found


def _why(scratch: Path, name: str, log: Path) -> str:
    word = scratch / "logs" / f"{name}.error"
    text = word.read_text().partition("\n")[2] if word.is_file() else log.read_text()
    lines = text.strip().splitlines()
    return lines[0] if word.is_file() and lines else f"{lines[-1] if lines else 'no word'}; {log}"
