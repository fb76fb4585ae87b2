"""Bits per byte of held-out documents, the one figure that compares across tokenizers, beside `xz -9e`."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.shards import Shard, ShardWriter
from pipeline.run.results import Score
from pipeline.scores.compression import xz_bits_per_byte
from pipeline.scores.intervals import bootstrap_interval
from pipeline.scores.likelihood import document_windows, nll_sums, sums_by_document, target_counts
from pipeline.scores.score import BASE, FINE_TUNED, PREFERRED, PRETRAINED, REINFORCED, XZ, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

NAME, TOKENS = "bits per byte", "bytes per token"


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
    nats: dict[str, np.ndarray],
    byte_lengths: np.ndarray,
    texts: list[str],
    settings: Settings,
    protocol: str,
    name: str = NAME,
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
        scores.append(Score(name, model, value, interval, "bits/byte", len(texts), protocol, "lower"))
    packed = (
        f"{protocol.partition(';')[0]}; all of them end to end in one stream of xz -9e, its headers included"
    )
    scores.append(Score(name, XZ, xz_bits_per_byte(texts), None, "bits/byte", len(texts), packed, "lower"))
    return scores


def by_source(
    keys: list[str],
    label_of: Callable[[str], str],
    nats: dict[str, np.ndarray],
    byte_lengths: np.ndarray,
    texts: list[str],
    settings: Settings,
    protocol: str,
    name: str = NAME,
) -> list[Score]:
    """As bits_scores, of the units of each source apart. label_of: names the source that a key comes from."""
    labels = np.array([label_of(key) for key in keys])
    scores = []
    for label in dict.fromkeys(labels.tolist()):
        own = np.flatnonzero(labels == label)
        scores += bits_scores(
            {model: sums[own] for model, sums in nats.items()},
            byte_lengths[own],
            [texts[place] for place in own],
            settings,
            f"{len(own)} of them from source {label}, of {protocol}",
            f"{name}, source {label}",
        )
    return scores


class DocumentBits:
    """Bits per byte on held-out documents drawn by the seed.

    Args:
        shard: documents.held_out; rows: its JSON lines {key, text}, in the shard's order.
        count: documents scored; None: all. label_of: names the source that a key comes from; None: there is one.
    """

    name, models = "documents", (BASE, FINE_TUNED, PREFERRED, REINFORCED)

    def __init__(
        self,
        shard: Shard,
        rows: list[dict[str, Any]],
        count: int | None,
        settings: Settings,
        label_of: Callable[[str], str] | None = None,
    ) -> None:
        self.settings, self.label_of = settings, label_of
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
        given = (nats, self.byte_lengths, texts, self.settings, self._protocol())
        scores = bits_scores(*given)
        if self.label_of:
            scores += by_source([row["key"] for row in self.rows], self.label_of, *given)
        return scores

    def detail(self) -> dict[str, Any]:
        return {
            "keys": [row["key"] for row in self.rows],
            "bytes": self.byte_lengths.tolist(),
            "targets": int(target_counts(self.items).sum()),
        }

    def _protocol(self) -> str:
        return _protocol(f"{len(self.rows)} held-out documents", self.settings)


class TextBits:
    """Bits per byte of texts that each model reads with its own tokenizer, and what training changed.

    Args:
        name: of the part; label: stands behind a score's name.
        rows: {key, text}; count: of them scored, drawn by the seed; None: all.
    """

    models = (PRETRAINED, BASE, FINE_TUNED, PREFERRED, REINFORCED)

    def __init__(
        self, name: str, label: str, rows: list[dict[str, Any]], count: int | None, settings: Settings
    ) -> None:
        self.name, self.label, self.settings = name, label, settings
        drawn = sample_of(len(rows), count, settings.seed_of("documents"))
        self.rows = [rows[index] for index in drawn]
        self.byte_lengths = np.array([len(row["text"].encode()) for row in self.rows])
        self.units = len(self.rows)
        self.missing = "" if count is None or count <= len(rows) else f"only {len(rows)} are held out"

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        """Nats of each text, and the tokens scored in all."""
        settings, every = self.settings, np.arange(self.units)
        with tempfile.TemporaryDirectory() as folder:
            shard = _shard_of([row["text"] for row in self.rows], tokenizer, Path(folder))
            items = document_windows(shard, every, settings.window, stride_of(settings.window))
            sums = nll_sums(model, items, settings.batch_size, settings.bf16, settings.progress)
        nats = sums_by_document(items, sums, every).tolist()
        return {"nats": nats, "tokens": int(target_counts(items).sum())}

    def scores(self, measured: dict[str, dict[str, Any]]) -> list[Score]:
        nats = {model: np.array(found["nats"]) for model, found in measured.items()}
        protocol = _protocol(f"{self.units} held-out texts{self.label}", self.settings)
        texts, total = [row["text"] for row in self.rows], int(self.byte_lengths.sum())
        scores = bits_scores(nats, self.byte_lengths, texts, self.settings, protocol, NAME + self.label)
        if PRETRAINED in nats:
            trained = [model for model in nats if model != PRETRAINED]
            scores += [self._change(model, nats[model] - nats[PRETRAINED], protocol) for model in trained]
            for model, found in measured.items():
                value = total / found["tokens"]
                said = f"{self.units} held-out texts{self.label}; UTF-8 bytes over tokens, the end of each counted"
                scores.append(
                    Score(TOKENS + self.label, model, value, None, "bytes/token", self.units, said, "higher")
                )
        return scores

    def _change(self, model: str, nats: np.ndarray, protocol: str) -> Score:
        bits, samples = nats / math.log(2), self.settings.bootstrap_samples
        interval = bootstrap_interval(bits, self.byte_lengths, samples, self.settings.seed_of("bits"))
        value = float(bits.sum()) / int(self.byte_lengths.sum())
        paired = f"{model} minus {PRETRAINED}, paired by text; {protocol}"
        name = f"{NAME}{self.label} change"
        return Score(name, model, value, interval, "bits/byte", self.units, paired, "lower")

    def detail(self) -> dict[str, Any]:
        return {"keys": [row["key"] for row in self.rows], "bytes": self.byte_lengths.tolist()}


def _shard_of(texts: list[str], tokenizer: PreTrainedTokenizerFast, folder: Path) -> Shard:
    """The texts as documents are tokenized for training."""
    from pipeline.data.chat import separators
    from pipeline.data.kinds import enclose
    from tokenizer.encode import encode

    vocabulary = max(tokenizer.get_vocab().values()) + 1
    with ShardWriter(folder, "texts", vocabulary, "0" * 64) as writer:
        ids, lengths = encode(tokenizer.backend_tokenizer, texts)
        byte_lengths = np.array([len(text.encode()) for text in texts])
        writer.add(*enclose(ids, lengths, *separators(tokenizer)), byte_lengths)
    return Shard.open(folder, "texts")


def _protocol(units: str, settings: Settings) -> str:
    window = settings.window
    return (
        f"{units}; negative log-likelihood of every token after the one that opens the document, the end-of-document "
        "token included, over the UTF-8 bytes of the text; context: the tokens before in a window of "
        f"{window} that begins at the document's start or holds at least {window - stride_of(window) + 1} tokens "
        f"before those it scores; float64 sums over documents, divided once; {settings.precision}; interval: "
        "bootstrap over documents"
    )


def stride_of(window: int) -> int:
    """Half a window: every token has at least half a window of context, at twice the forwards."""
    return max(1, window // 2)
