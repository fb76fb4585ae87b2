"""Bits per byte of held-out documents, the one figure that compares across tokenizers, beside `xz -9e`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.shards import Shard
from pipeline.run.results import Score
from pipeline.scores.compression import xz_bits_per_byte
from pipeline.scores.intervals import bootstrap_interval
from pipeline.scores.likelihood import document_windows, nll_sums, sums_by_document, target_counts
from pipeline.scores.score import BASE, FINE_TUNED, XZ, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

NAME = "bits per byte"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file."""
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def sample_of(units: int, count: int | None, seed: int) -> np.ndarray:
    """`count` of the indices below `units` without replacement, in order; all of them for None or too large a count."""
    if count is None or count >= units:
        return np.arange(units)
    return np.sort(np.random.default_rng(seed).permutation(units)[:count])


def bits_scores(
    nats: dict[str, np.ndarray], byte_lengths: np.ndarray, texts: list[str], settings: Settings, protocol: str
) -> list[Score]:
    """Bits per byte of each model and of xz on the same units.

    Args:
        nats: model -> negative log-likelihood of each unit, float64 [D].
        byte_lengths: UTF-8 bytes of each unit [D].
        texts: the units, for xz.
    """
    seed = settings.seed_of("bits")
    total = int(byte_lengths.sum())
    scores = []
    for model, sums in nats.items():
        bits = sums / math.log(2)
        interval = bootstrap_interval(bits, byte_lengths, settings.bootstrap_samples, seed)
        value = float(bits.sum()) / total
        scores.append(Score(NAME, model, value, interval, "bits/byte", len(texts), protocol, "lower"))
    packed = (
        f"{protocol.partition(';')[0]}; all of them end to end in one stream of xz -9e, its headers included"
    )
    scores.append(Score(NAME, XZ, xz_bits_per_byte(texts), None, "bits/byte", len(texts), packed, "lower"))
    return scores


class DocumentBits:
    """Bits per byte on held-out documents drawn by the seed.

    Args:
        shard: documents.held_out; rows: its JSON lines {key, text}, in the shard's order.
        count: documents scored; None: all.
    """

    name, models = "documents", (BASE, FINE_TUNED)

    def __init__(
        self, shard: Shard, rows: list[dict[str, Any]], count: int | None, settings: Settings
    ) -> None:
        self.settings = settings
        self.documents = sample_of(shard.documents, count, settings.seed_of("documents"))
        self.rows = [rows[document] for document in self.documents]
        self.byte_lengths = shard.byte_lengths[self.documents]
        written = [len(row["text"].encode()) for row in self.rows]
        assert written == self.byte_lengths.tolist(), "held-out texts are not those of the shard"
        self.items = document_windows(shard, self.documents, settings.window, stride_of(settings.window))
        self.units = len(self.rows)
        self.missing = (
            "" if count is None or count <= shard.documents else f"only {shard.documents} are held out"
        )

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[float]:
        """Nats of each document."""
        sums = nll_sums(
            model, self.items, self.settings.batch_size, self.settings.bf16, self.settings.progress
        )
        return sums_by_document(self.items, sums, self.documents).tolist()

    def scores(self, measured: dict[str, list[float]]) -> list[Score]:
        nats = {model: np.array(sums) for model, sums in measured.items()}
        texts = [row["text"] for row in self.rows]
        return bits_scores(nats, self.byte_lengths, texts, self.settings, self._protocol())

    def detail(self) -> dict[str, Any]:
        return {
            "keys": [row["key"] for row in self.rows],
            "bytes": self.byte_lengths.tolist(),
            "targets": int(target_counts(self.items).sum()),
        }

    def _protocol(self) -> str:
        window = self.settings.window
        return (
            f"{len(self.rows)} held-out documents; negative log-likelihood of every token after the one that opens the "
            "document, the end-of-document token included, over the UTF-8 bytes of the text; context: the tokens "
            f"before in a window of {window} that begins at the document's start or holds at least "
            f"{window - stride_of(window) + 1} tokens before those it scores; float64 sums over documents, divided "
            f"once; {self.settings.precision}; interval: bootstrap over documents"
        )


def stride_of(window: int) -> int:
    """Half a window: every token has at least half a window of context, at twice the forwards."""
    return max(1, window // 2)
