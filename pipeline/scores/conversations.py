"""The loss on held-out answers before and after fine-tuning, conversation by conversation."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.packing import Conversations
from pipeline.data.shards import Shard
from pipeline.run.results import Score
from pipeline.scores.bits import bits_scores, sample_of
from pipeline.scores.intervals import bootstrap_interval
from pipeline.scores.likelihood import nll_sums, target_counts
from pipeline.scores.score import BASE, FINE_TUNED, PREFERRED, REINFORCED, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TOKEN_LOSS, CONVERSATION_LOSS = "conversation loss", "conversation loss by conversation"


class ConversationLoss:
    """Nats of the assistant's tokens of held-out conversations drawn by the seed, the same ones for every model.

    Args:
        shard: conversations.held_out; rows: its JSON lines {key, messages}, in the shard's order.
        window: tokens of a conversation that count; what is beyond is not scored.
        count: conversations scored at most.
        with_bits: also the bits per byte of the answers, of conversations that fit in the window.
    """

    name, models = "conversations", (BASE, FINE_TUNED, PREFERRED, REINFORCED)

    def __init__(
        self,
        shard: Shard,
        rows: list[dict[str, Any]],
        window: int,
        count: int,
        with_bits: bool,
        settings: Settings,
    ) -> None:
        self.settings, self.window, self.with_bits = settings, window, with_bits
        split = Conversations(shard, window)
        drawn = sample_of(split.length, count, settings.seed_of("conversations"))
        self.items = [split.item(int(index)) for index in drawn]
        self.targets = target_counts(self.items)
        indices = [int(item["document"]) for item in self.items]
        self.rows = [rows[index] for index in indices]
        self.byte_lengths = shard.byte_lengths[indices]
        self.whole = shard.lengths[indices] <= window
        self.units = len(self.rows)
        self.missing = (
            "" if count <= split.length else f"only {split.length} of {count} conversations are held out"
        )

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[float]:
        """Nats of each conversation."""
        return nll_sums(
            model, self.items, self.settings.batch_size, self.settings.bf16, self.settings.progress
        ).tolist()

    def scores(self, measured: dict[str, list[float]]) -> list[Score]:
        nats = {model: np.array(sums) for model, sums in measured.items()}
        scores = [score for model, sums in nats.items() for score in self._losses("", model, sums)]
        if FINE_TUNED in nats:
            scores += self._losses(" change", FINE_TUNED, nats[FINE_TUNED] - nats[BASE])
        if self.with_bits and self.whole.any():
            whole = {model: sums[self.whole] for model, sums in nats.items()}
            texts = [
                answers_of(row["messages"]) for row, kept in zip(self.rows, self.whole, strict=True) if kept
            ]
            scores += bits_scores(
                whole, self.byte_lengths[self.whole], texts, self.settings, self._bits_protocol()
            )
        return scores

    def _losses(self, suffix: str, model: str, nats: np.ndarray) -> list[Score]:
        """Per token over all conversations, and the mean over conversations of their own loss per token."""
        ones, samples, seed = (
            np.ones(len(nats)),
            self.settings.bootstrap_samples,
            self.settings.seed_of("losses"),
        )
        protocol = self._protocol(suffix)
        kinds = (
            (TOKEN_LOSS, nats, self.targets, "summed over all tokens, divided once"),
            (
                CONVERSATION_LOSS,
                nats / self.targets,
                ones,
                "mean over conversations of each one's loss per token",
            ),
        )
        return [
            Score(
                name=name + suffix,
                model=model,
                value=float(totals.sum() / weights.sum()),
                interval=bootstrap_interval(totals, weights, samples, seed),
                unit="nats/token",
                count=len(nats),
                protocol=f"{protocol}; {how}",
                better="lower",
            )
            for name, totals, weights, how in kinds
        ]

    def detail(self) -> dict[str, Any]:
        return {"keys": [row["key"] for row in self.rows], "targets": self.targets.tolist()}

    def _protocol(self, suffix: str) -> str:
        paired = "fine-tuned minus base, paired by conversation; " if suffix else ""
        return (
            f"{paired}negative log-likelihood of the answers' tokens, their stop token included, in {len(self.rows)} "
            f"held-out conversations of which the first {self.window} tokens are seen; {self.settings.precision}; "
            "interval: bootstrap over conversations"
        )

    def _bits_protocol(self) -> str:
        return (
            f"answers of {int(self.whole.sum())} held-out conversations of at most {self.window} tokens; negative "
            "log-likelihood of the answers' tokens, their stop token included, after the conversation before them, "
            f"over the UTF-8 bytes of the answers; {self.settings.precision}; interval: bootstrap over conversations"
        )


def answers_of(messages: list[dict[str, Any]]) -> str:
    """The assistant's words, and its calls as JSON."""
    return "".join(
        message["content"] + "".join(json.dumps(call["function"]) for call in message.get("tool_calls") or ())
        for message in messages
        if message["role"] == "assistant"
    )
