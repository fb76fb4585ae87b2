"""What every measurement of a language model has in common: what it is given, and its interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from pipeline.run.results import Score
from pipeline.train.seeds import derived_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

BASE, FINE_TUNED, PREFERRED, REINFORCED = "base", "fine-tuned", "preferred", "reinforced"
XZ, REFERENCE = "xz -9e", "reference"
REWARD_MODEL = "reward model"  # judges texts, and writes none
PRETRAINED = "pretrained"  # as it came, before this run trained it further


@dataclass(frozen=True)
class Settings:
    """What every measurement is given.

    window: tokens that a model is shown at most; bf16: likelihoods are computed in bfloat16; batch_size: sequences a
    forward at most; bootstrap_samples: resamples behind an interval; progress: for bars, if it is a terminal.
    """

    seed: int
    window: int
    bf16: bool
    batch_size: int
    bootstrap_samples: int
    progress: TextIO

    @property
    def precision(self) -> str:
        """What a protocol says of it."""
        return "bfloat16 with the softmax in fp32" if self.bf16 else "fp32"

    def seed_of(self, purpose: str, *progress: int) -> int:
        return derived_seed(self.seed, f"evaluate/{purpose}", *progress)


class Part(Protocol):
    """One kind of measurement: made of each model in turn, then put beside each other.

    models: which of the names above it is made of; units: documents, conversations or
    questions that it is made on, 0 where there is nothing to measure; missing: why they are fewer than asked for, or
    "".
    """

    name: str
    models: tuple[str, ...]
    units: int
    missing: str

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> Any:
        """Plain JSON data, for `scores` and for the detail in evaluation.json."""

    def scores(self, measured: dict[str, Any]) -> list[Score]:
        """The scores of the models measured, by name."""

    def detail(self) -> dict[str, Any]:
        """What was measured on, as plain JSON data; what each model gave is added under its name."""
