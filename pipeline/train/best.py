"""The best weights by a held-out figure, and when to stop waiting for better ones."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.run.config import Loop
from pipeline.run.errors import UserError, nearest
from pipeline.train import checkpoint
from pipeline.train.loop import Trainer


@dataclass
class Best:
    """What a checkpoint remembers of it, so that a resumed run chooses and stops as an uninterrupted one.

    step, value: of the best evaluation so far, 0 and none before the first; waited: evaluations since.
    """

    step: int = 0
    value: float | None = None
    waited: int = 0

    @classmethod
    def of(cls, progress: dict[str, Any]) -> "Best":
        return cls(**progress.get("best", {}))

    def progress(self) -> dict[str, Any]:
        return {"best": asdict(self)} if self.value is not None else {}

    def see(self, step: int, figures: dict[str, float], trainer: Trainer, directory: Path) -> None:
        """Keep the trainer's state below `directory` where its figure is better than every one before.

        Raises:
            UserError: the evaluation has no such figure.
        """
        training = trainer.training
        if training.metric_for_best_model is None:
            return
        value = _figure(training, figures)
        ahead = self.value is None or (
            value > self.value if training.greater_is_better else value < self.value
        )
        if not ahead:
            self.waited += 1
            return
        self.step, self.value, self.waited = step, value, 0
        checkpoint.save(directory, step, trainer.tensors(), {}, 1, trainer.runtime)

    def exhausted(self, training: Loop) -> bool:
        """Whether as many evaluations as the patience allows have brought nothing better."""
        return (
            training.early_stopping_patience is not None and self.waited >= training.early_stopping_patience
        )

    def restore(self, trainer: Trainer, directory: Path) -> None:
        """Give the trainer its best weights back."""
        if self.value is not None:
            found, _ = checkpoint.newest(directory, trainer.runtime)
            assert found is not None, f"the best state, of step {self.step}, is not in {directory}"
            trainer.load(checkpoint.Reader(found), self.step)


def _figure(training: Loop, figures: dict[str, float]) -> float:
    name = str(training.metric_for_best_model)
    key = name if name.startswith("eval_") else f"eval_{name}"
    if key not in figures:
        raise UserError(f"metric_for_best_model: {name!r} is not evaluated\n{nearest(key, figures)[:300]}")
    return figures[key]
