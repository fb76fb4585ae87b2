"""The multiple-choice task as a part of the evaluation: questions from held-out conversations, figures from lm-eval."""

from __future__ import annotations

import importlib.metadata
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pipeline.data.chat import ChatEncoder
from pipeline.run.results import Score
from pipeline.scores.choices import CHOICES, NEIGHBOURS, build_questions
from pipeline.scores.harness import METRICS, ask
from pipeline.scores.intervals import normal_interval
from pipeline.scores.score import BASE, FINE_TUNED, PREFERRED, REINFORCED, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

NAME = "multiple choice"


class MultipleChoice:
    """Which of four held-out answers belongs to a prompt?

    Args:
        rows: JSON lines {key, messages} of held-out conversations.
        tokenizer: with the chat template that training rendered with.
        count: questions at most.
    """

    name, models = "multiple_choice", (BASE, FINE_TUNED, PREFERRED, REINFORCED)

    def __init__(
        self, rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerFast, count: int, settings: Settings
    ) -> None:
        self.settings = settings
        # A conversation of which the template rewrites earlier turns stands there once for each of its rows. Those with
        # tools are asked otherwise: pipeline/scores/calls.py.
        plain = (row["messages"] for row in rows if not row.get("tools"))
        conversations = [messages for messages, _ in groupby(plain) if messages]
        seed = settings.seed_of("choices")
        self.questions = build_questions(ChatEncoder(tokenizer), conversations, count, settings.window, seed)
        self.units = found = len(self.questions.asked)
        self.missing = (
            "" if found == count else f"held-out conversations make only {found} of {count} questions"
        )

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        """lm-eval's figures and standard errors, and the verdict on each question."""
        settings = self.settings
        return ask(
            model, tokenizer, self.questions.asked, settings.batch_size, settings.window, settings.bf16
        )

    def scores(self, measured: dict[str, dict[str, Any]]) -> list[Score]:
        return [
            self._score(model, metric, figures) for model, figures in measured.items() for metric in METRICS
        ]

    def _score(self, model: str, metric: str, figures: dict[str, Any]) -> Score:
        share, error = figures[metric], figures[f"{metric}_stderr"]
        return Score(
            name=f"{NAME} {metric}",
            model=model,
            value=share,
            interval=None if error is None else normal_interval(share, error),
            unit="share",
            count=len(self.questions.asked),
            protocol=self._protocol(metric),
            better="higher",
        )

    def detail(self) -> dict[str, Any]:
        return {"questions": len(self.questions.asked), "unfaithful": self.questions.unfaithful}

    def _protocol(self, metric: str) -> str:
        return (
            f"lm-eval {importlib.metadata.version('lm_eval')}, multiple_choice, {metric}, zero-shot; which of {CHOICES}"
            " answers follows this prompt of a held-out conversation; wrong ones drawn among the "
            f"{NEIGHBOURS} held-out answers closest in length; text rendered with the chat template of training, no "
            "bos but the template's; the stop token, and white space that ends the prompt, count with the choice; "
            f"chance {1 / CHOICES:.2f}; {self.settings.precision}; interval: 1.96 standard errors"
        )
