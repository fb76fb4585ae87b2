"""A program: what every recipe does under one launcher, one after the other; process 0 writes what it saw.

`python -m tests.recipe_worker OUT SHARED LAUNCHER`: SHARED holds the data that tests.recipe_cases prepared; checkpoints
go to SHARED/LAUNCHER. What is seen is judged by tests/test_recipes.py, not here.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.run.stage import leave
from pipeline.train import checkpoint
from pipeline.train.engine import Runtime, start_runtime, stop_runtime
from pipeline.train.loop import Trainer, evaluate, steps
from tests.recipe_cases import CASES, STEP_SAMPLES, Case
from tests.worker import everywhere, state_digests, watch_turns

STEPS, SAVED = 4, 2


def seen_of(case: Case, shared: Path, checkpoints: Path, runtime: Runtime) -> dict[str, Any]:
    """Four steps with a checkpoint after the second, and the last two again from it.

    A micro-batch has a quarter of a step's samples: two processes accumulate twice, one accumulates four times.
    """
    recipe = case.build(shared, STEP_SAMPLES // 4)
    assert recipe.zero_stages == case.zero_stages, "a stage that is declared is one that is tested"
    whole = Trainer(recipe, runtime)
    changes, rows = watch_turns(whole), []
    for info in steps(whole):
        rows.append({name: [figure.total, figure.count] for name, figure in info.sums.items()})
        if info.step == SAVED:
            checkpoint.save(checkpoints, SAVED, whole.tensors(), {}, 1, runtime)
    resumed = Trainer(case.build(shared, STEP_SAMPLES // 4), runtime)
    found, _ = checkpoint.newest(checkpoints, runtime)
    resumed.load(checkpoint.Reader(found), SAVED)
    again = [
        {name: [figure.total, figure.count] for name, figure in info.sums.items()}
        for info in steps(resumed, SAVED)
    ]
    states = [state_digests(whole), state_digests(resumed)]
    evaluations = {size: _evaluated(whole, size) for size in (1, 5)}
    return {
        "turns": recipe.turns,
        "ema": recipe.ema,
        "changes": everywhere(runtime, changes),
        "rows": rows,
        "again": again,
        "states": states,
        "evaluations": evaluations,
    }


def _evaluated(trainer: Trainer, size: int) -> dict[str, list[float]]:
    """The held-out figures at `size` samples a batch, as [total, count]."""
    split = trainer.recipe.held_out()
    if split is None:
        return {}
    trainer.training = trainer.training.model_copy(update={"per_device_eval_batch_size": size})
    return {name: [figure.total, figure.count] for name, figure in evaluate(trainer, split, STEPS).items()}


def main(out: Path, shared: Path, launcher: str) -> None:
    runtime = start_runtime(threads=1)
    report = {
        name: seen_of(case, shared, shared / launcher / name, runtime)
        for name, case in CASES.items()
        if case.runs_under(launcher)
    }
    if runtime.is_main:
        out.write_text(json.dumps(report))
    stop_runtime()
    leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
