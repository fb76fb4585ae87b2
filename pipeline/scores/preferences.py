"""Held-out judged answers before and after preference tuning: which side is likelier, and what tuning did otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.chat import ChatEncoder
from pipeline.data.kinds import FOREIGN, WANTED
from pipeline.data.packing import IGNORED, Item, whole_document
from pipeline.data.shards import Shard
from pipeline.run.results import Score
from pipeline.scores.bits import sample_of
from pipeline.scores.intervals import bootstrap_interval, wilson_interval
from pipeline.scores.likelihood import nll_sums, target_counts
from pipeline.scores.score import PREFERRED, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ACCURACY, CHOSEN_LOSS, REWARDS = "preference accuracy", "chosen answer loss", "reward accuracy"
VERDICTS, LENGTH, DIVERGENCE = "verdict AUC", "sampled answer length", "divergence from before"
MOST_TOKENS = 128  # of a sampled answer


class PreferenceScores:
    """Units of held-out judged answers drawn by the seed, the same ones before and after.

    Args:
        shard: preferences.held_out; rows: its JSON lines, in the shard's order.
        before: name and directory of the model that preference tuning began with.
        window: tokens of an answer with its prompt at most; units with a longer one are left out and counted.
        count, samples: units that are scored, prompts that are answered by sampling, at most.
    """

    name = "preferences"

    def __init__(
        self,
        shard: Shard,
        rows: list[dict[str, Any]],
        before: tuple[str, Path],
        window: int,
        count: int,
        samples: int,
        settings: Settings,
    ) -> None:
        self.settings, self.before, self.models = settings, before, (before[0], PREFERRED)
        self._measured_before = False  # models are measured in their order
        fitting = np.flatnonzero((shard.lengths.reshape(-1, 2) <= window).all(1))
        units = fitting[sample_of(len(fitting), count, settings.seed_of("preferences"))]
        self.units, self.paired = len(units), not bool((shard.labels == FOREIGN).any())
        self.documents = (2 * units[:, None] + np.arange(2)).ravel() if self.paired else 2 * units
        self.items = [whole_document(shard, document) for document in self.documents]
        self.targets = target_counts(self.items)
        self.wanted = shard.labels[self.documents] == WANTED
        self.rows = [rows[document] for document in 2 * units]
        asked = [row for row in self.rows if not row.get("plain")]
        self.asked = asked[:samples]
        left_out = len(shard.lengths) // 2 - len(fitting)
        self.missing = f"{left_out} units are longer than {window} tokens" if left_out else ""
        if count > len(fitting):
            self.missing = f"only {len(fitting)} of {count} units are held out"

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, list[float]]:
        """`logps` of each answer; of the sampled ones `lengths` and `logps_sampled`, and what the model before gives
        them, where this is the model after."""
        found = {"logps": (-self._nll(model, self.items)).tolist()}
        if not self.asked:
            return found
        prompts, answers = self._sampled(model, tokenizer)
        found["lengths"] = [len(answer) for answer in answers]
        items = [_of_ids(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        found["logps_sampled"] = (-self._nll(model, items)).tolist()
        if self._measured_before:
            found["logps_before"] = (-self._nll(self._load_before(model), items)).tolist()
        self._measured_before = True
        return found

    def _nll(self, model: PreTrainedModel, items: list[Item]) -> np.ndarray:
        settings = self.settings
        return nll_sums(model, items, settings.batch_size, settings.bf16, settings.progress)

    def _load_before(self, model: PreTrainedModel) -> PreTrainedModel:
        from pipeline.lm.model import load_model

        return load_model(self.before[1]).to(model.device)

    def _sampled(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
    ) -> tuple[list[list[int]], list[list[int]]]:
        from pipeline.lm.decoding import sample_batch
        from pipeline.lm.prompts import chat_prompt

        encoder = ChatEncoder(tokenizer)
        asked = [row["messages"][: row["answer"]] for row in self.asked]
        prompts = [chat_prompt(encoder, list(messages)) for messages in asked]
        seeds = [self.settings.seed_of("preference samples", number) for number in range(len(prompts))]
        answers: list[list[int]] = []
        size = self.settings.batch_size
        for first in range(0, len(prompts), size):
            part = slice(first, first + size)
            answers += sample_batch(model, tokenizer, prompts[part], MOST_TOKENS, 1.0, 1.0, seeds[part])
        return prompts, answers

    def scores(self, measured: dict[str, dict[str, list[float]]]) -> list[Score]:
        found = []
        for model, figures in measured.items():
            logps = np.array(figures["logps"])
            found += self._of_pairs(model, logps) if self.paired else [self._of_verdicts(model, logps)]
            if "lengths" in figures:
                found.append(self._lengths(model, np.array(figures["lengths"], float)))
        after = measured.get(PREFERRED, {})
        if self.paired and PREFERRED in measured and self.before[0] in measured:
            ratios = np.array(after["logps"]) - np.array(measured[self.before[0]]["logps"])
            ahead = int((ratios[0::2] > ratios[1::2]).sum())
            why = "share of held-out pairs of which the chosen answer gained more log-probability than the rejected one"
            found.append(self._share(REWARDS, PREFERRED, ahead, f"{why}; {self._common}"))
        if "logps_before" in after:
            gaps = np.array(after["logps_sampled"]) - np.array(after["logps_before"])
            found.append(self._mean(
                DIVERGENCE, PREFERRED, gaps, "nats/answer",
                f"log p(after) - log p(before) of {len(gaps)} answers sampled from the model after, at most "
                f"{MOST_TOKENS} tokens, temperature 1: an estimate of KL(after || before)", "lower",
            ))  # fmt: skip
        return found

    @property
    def _common(self) -> str:
        return f"{self.settings.precision}; interval: Wilson"

    def _of_pairs(self, model: str, logps: np.ndarray) -> list[Score]:
        means = logps / self.targets
        ahead = int((means[0::2] > means[1::2]).sum())
        why = "share of held-out pairs of which the chosen answer has the higher log-probability a token"
        totals, weights = -logps[0::2], self.targets[0::2]
        seed, samples = self.settings.seed_of("preferences"), self.settings.bootstrap_samples
        return [
            self._share(ACCURACY, model, ahead, f"{why}; chance is 0.5; {self._common}"),
            Score(
                CHOSEN_LOSS, model, float(totals.sum() / weights.sum()),
                bootstrap_interval(totals, weights, samples, seed), "nats/token", self.units,
                f"negative log-likelihood of the tokens of the chosen answers of {self.units} held-out pairs; "
                f"{self.settings.precision}; interval: bootstrap over pairs", "lower",
            ),
        ]  # fmt: skip

    def _of_verdicts(self, model: str, logps: np.ndarray) -> Score:
        means, wanted = logps / self.targets, self.wanted
        random = np.random.default_rng(self.settings.seed_of("verdicts"))
        drawn = []
        for _ in range(self.settings.bootstrap_samples):
            chosen = random.integers(0, len(means), len(means))
            drawn.append(auc(means[chosen], wanted[chosen]))
        low, high = np.nanquantile(drawn, (0.025, 0.975))
        return Score(
            VERDICTS, model, auc(means, wanted), (float(low), float(high)), "share", self.units,
            "probability that a wanted held-out answer has a higher log-probability a token than an unwanted one; "
            f"chance is 0.5; {self.settings.precision}; interval: bootstrap over answers", "higher",
        )  # fmt: skip

    def _share(self, name: str, model: str, ahead: int, protocol: str) -> Score:
        interval = wilson_interval(ahead, self.units)
        return Score(name, model, ahead / self.units, interval, "share", self.units, protocol, "higher")

    def _lengths(self, model: str, lengths: np.ndarray) -> Score:
        protocol = (
            f"tokens of answers sampled to {len(lengths)} held-out prompts, at most {MOST_TOKENS}, temperature 1; "
            "interval: bootstrap over prompts"
        )
        return self._mean(LENGTH, model, lengths, "tokens", protocol, "")

    def _mean(
        self, name: str, model: str, values: np.ndarray, unit: str, protocol: str, better: str
    ) -> Score:
        seed, samples = self.settings.seed_of(name), self.settings.bootstrap_samples
        interval = bootstrap_interval(values, np.ones(len(values)), samples, seed)
        return Score(name, model, float(values.mean()), interval, unit, len(values), protocol, better)

    def detail(self) -> dict[str, Any]:
        return {
            "keys": [row["key"] for row in self.rows],
            "targets": self.targets.tolist(),
            "wanted": self.wanted.tolist(),
        }


def auc(values: np.ndarray, wanted: np.ndarray) -> float:
    """Probability that a wanted value is above an unwanted one, ties half; NaN where one kind is missing (Mann and
    Whitney 1947)."""
    ups, downs = values[wanted], values[~wanted]
    if not len(ups) or not len(downs):
        return float("nan")
    below = np.searchsorted(np.sort(downs), ups, side="left") + np.searchsorted(
        np.sort(downs), ups, side="right"
    )
    return float(below.mean() / (2 * len(downs)))


def _of_ids(prompt: list[int], answer: list[int]) -> Item:
    """An item whose labels are the answer's tokens."""
    ids = np.array([*prompt, *answer], np.int64)
    labels = np.full(len(ids), IGNORED, np.int64)
    labels[len(prompt) - 1 : -1] = answer
    return {
        "input_ids": ids,
        "labels": labels,
        "document_ids": np.zeros(len(ids), np.int32),
        "position_ids": np.arange(len(ids)),
    }
