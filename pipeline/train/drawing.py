"""Samples during training: drawn with the shadows' weights from fixed seeds, kept beside the log for the report."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.run.results import step_of, steps_of

if TYPE_CHECKING:
    from pipeline.train.loop import Trainer

ALARM = "alarm_"  # figures of these names are 1 where something is wrong


class Drawings:
    """`LOGS/STAGE.samples/step-NNNNNNNN/`: what a recipe's `sample` wrote after that step."""

    def __init__(self, logs: Path, stage: str, start: int, trainer: Trainer):
        self.directory, self.trainer = logs / f"{stage}.samples", trainer
        if trainer.runtime.is_main:
            for path in steps_of(self.directory):  # those beyond `start` will be drawn again
                if not start or step_of(path) > start:
                    shutil.rmtree(path)

    def draw(self, step: int, count: int) -> dict[str, float]:
        """Samples 0 to `count` - 1 after update `step`; their figures. Every process draws, process 0 keeps."""
        with TemporaryDirectory() as scratch, self.trainer.resting(shadows=True) as nets:
            figures = self.trainer.recipe.sample(nets, list(range(count)), Path(scratch))
            if self.trainer.runtime.is_main and any(Path(scratch).iterdir()):
                self._keep(Path(scratch), step)
        return figures

    def _keep(self, drawn: Path, step: int) -> None:
        staged, final = self.directory / f".step-{step:08d}", self.directory / f"step-{step:08d}"
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(drawn, staged)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(staged, final)


def alarms(figures: dict[str, float]) -> list[str]:
    """The alarms that ring among `figures`, in words."""
    ringing = [key for key, value in figures.items() if key.startswith(ALARM) and value]
    return [f"alarm: {key.removeprefix(ALARM).replace('_', ' ')}" for key in ringing]
