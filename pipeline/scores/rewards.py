"""What a reward function says of answers to held-out prompts, before and after learning from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.shards import Shard
from pipeline.run.results import Score
from pipeline.run.terminal import bar
from pipeline.scores.bits import sample_of
from pipeline.scores.intervals import bootstrap_interval
from pipeline.scores.score import REINFORCED, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

REWARD, CHANGE = "reward", "reward change"


class HeldOutReward:
    """One answer to each of the held-out prompts drawn by the seed, sampled at the temperature of training.

    Args:
        shard, rows: prompts.held_out and its JSON lines; before: the model that learning began with, by name.
        room: tokens of a prompt at most; most: of an answer; count: prompts at most.
    """

    name = "rewards"

    def __init__(
        self,
        shard: Shard,
        rows: list[dict[str, Any]],
        reward: Callable[[str, dict[str, Any]], float],
        before: str,
        room: int,
        most: int,
        temperature: float,
        count: int,
        settings: Settings,
    ) -> None:
        self.settings, self.reward, self.before = settings, reward, before
        self.most, self.temperature, self.models = most, temperature, (before, REINFORCED)
        fitting = np.flatnonzero(shard.lengths <= room)
        drawn = fitting[sample_of(len(fitting), count, settings.seed_of("rewards"))]
        self.prompts = [shard.document(row).tolist() for row in drawn]
        self.rows, self.units = [rows[row] for row in drawn], len(drawn)
        self.missing = "" if count <= len(fitting) else f"only {len(fitting)} of {count} prompts are held out"

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        """What was written, and what it is worth."""
        from pipeline.lm.decoding import sample_batch

        size, written = self.settings.batch_size, []
        for first in bar(range(0, self.units, size), "answers", self.settings.progress):
            part = range(first, min(first + size, self.units))
            seeds = [self.settings.seed_of("answer", number) for number in part]
            prompts = [self.prompts[number] for number in part]
            ids = sample_batch(model, tokenizer, prompts, self.most, self.temperature, 1.0, seeds)
            written += tokenizer.batch_decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return {
            "written": written,
            "rewards": [self.reward(*each) for each in zip(written, self.rows, strict=True)],
        }

    def scores(self, measured: dict[str, dict[str, Any]]) -> list[Score]:
        rewards = {model: np.array(found["rewards"]) for model, found in measured.items()}
        scores = [self._score(REWARD, model, values, "") for model, values in rewards.items()]
        if len(rewards) == 2:
            change = rewards[REINFORCED] - rewards[self.before]
            scores.append(self._score(CHANGE, REINFORCED, change, "after minus before, paired by prompt; "))
        return scores

    def _score(self, name: str, model: str, values: np.ndarray, paired: str) -> Score:
        seed, samples = self.settings.seed_of("rewards"), self.settings.bootstrap_samples
        protocol = (
            f"{paired}mean reward of one answer to each of {self.units} held-out prompts, at most {self.most} tokens, "
            f"temperature {self.temperature:g}; interval: bootstrap over prompts"
        )
        interval = bootstrap_interval(values, np.ones(len(values)), samples, seed)
        return Score(name, model, float(values.mean()), interval, "reward", self.units, protocol, "higher")

    def detail(self) -> dict[str, Any]:
        return {"keys": [row["key"] for row in self.rows]}
