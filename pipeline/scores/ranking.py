"""Held-out pairs through a reward model: how often the chosen answer is worth more, and what its length alone says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.shards import Shard
from pipeline.run.results import Score
from pipeline.scores.bits import sample_of
from pipeline.scores.intervals import bootstrap_interval, wilson_interval
from pipeline.scores.score import REWARD_MODEL, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

RANKED, MARGIN, LONGER = "pairs ranked right", "reward margin", "the longer answer"


class RankedPairs:
    """Held-out pairs drawn by the seed.

    Args:
        shard: preferences.held_out; rows: its JSON lines, in the shard's order.
        window: tokens of an answer with its prompt at most; pairs with a longer one are left out and counted.
        count: pairs that are scored, at most.
    """

    name, models = "ranked pairs", (REWARD_MODEL,)

    def __init__(
        self, shard: Shard, rows: list[dict[str, Any]], window: int, count: int, settings: Settings
    ) -> None:
        self.settings = settings
        fitting = np.flatnonzero((shard.lengths.reshape(-1, 2) <= window).all(1))
        pairs = fitting[sample_of(len(fitting), count, settings.seed_of("ranked pairs"))]
        self.units = len(pairs)
        documents = (2 * pairs[:, None] + np.arange(2)).ravel()
        self.ids = [shard.document(document) for document in documents]
        self.lengths = shard.lengths[documents].reshape(-1, 2)
        self.rows = [rows[document] for document in 2 * pairs]
        left_out = len(shard.lengths) // 2 - len(fitting)
        self.missing = f"{left_out} pairs are longer than {window} tokens" if left_out else ""
        if count > len(fitting):
            self.missing = f"only {len(fitting)} of {count} pairs are held out"

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, list[float]]:
        """`rewards` of the chosen and the rejected answer of each pair, one after the other."""
        return {"rewards": rewards_of(model, self.ids, self.settings.batch_size).tolist()}

    def scores(self, measured: dict[str, dict[str, list[float]]]) -> list[Score]:
        rewards = np.array(measured[REWARD_MODEL]["rewards"]).reshape(-1, 2)
        margins, longer = rewards[:, 0] - rewards[:, 1], self.lengths[:, 0] - self.lengths[:, 1]
        seed, samples = self.settings.seed_of(MARGIN), self.settings.bootstrap_samples
        interval = bootstrap_interval(margins, np.ones(len(margins)), samples, seed)
        why = "share of held-out pairs of which the chosen answer has the higher reward; chance is 0.5; fp32"
        found = [
            self._share(REWARD_MODEL, margins > 0, f"{why}; interval: Wilson"),
            Score(
                MARGIN, REWARD_MODEL, float(margins.mean()), interval, "", self.units,
                "mean reward of the chosen answer less that of the rejected one; interval: bootstrap over pairs",
                "higher",
            ),
        ]  # fmt: skip
        told = longer != 0
        if told.any():
            why = "share of held-out pairs of different lengths of which the chosen answer is the longer one"
            found.append(self._share(LONGER, longer[told] > 0, f"{why}; interval: Wilson"))
        return found

    def _share(self, model: str, right: np.ndarray, protocol: str) -> Score:
        interval = wilson_interval(int(right.sum()), len(right))
        return Score(RANKED, model, float(right.mean()), interval, "share", len(right), protocol, "higher")

    def detail(self) -> dict[str, Any]:
        return {"keys": [row["key"] for row in self.rows], "lengths": self.lengths.tolist()}


def rewards_of(model: PreTrainedModel, texts: list[np.ndarray], batch_size: int) -> np.ndarray:
    """What a sequence classifier of one class says of each text, fp32 [N]; longest first, padded behind."""
    import torch

    pad = model.config.get_text_config().pad_token_id
    found = np.zeros(len(texts), np.float32)
    order = np.argsort([-len(ids) for ids in texts], kind="stable")
    for first in range(0, len(texts), batch_size):
        batch = order[first : first + batch_size]
        longest = len(texts[batch[0]])
        ids_BT = np.full((len(batch), longest), pad, np.int64)
        seen_BT = np.zeros((len(batch), longest), np.int64)
        for row, which in enumerate(batch):
            ids_BT[row, : len(texts[which])], seen_BT[row, : len(texts[which])] = texts[which], 1
        given = [torch.from_numpy(array).to(model.device) for array in (ids_BT, seen_BT)]
        with torch.inference_mode():
            logits_B1 = model(input_ids=given[0], attention_mask=given[1]).logits
        found[batch] = logits_B1[:, 0].float().cpu().numpy()
    return found
