"""Negative log-likelihood of held-out tokens: float64 sums for each document, the same at any batch size.

Shape letters: B sequences of a batch, T positions, V vocabulary entries, D documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, TextIO

import numpy as np

from pipeline.data.packing import IGNORED, Item, collate, gather
from pipeline.data.shards import Shard

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

# Logits of a batch, whatever the vocabulary: on a CPU 32 MiB in fp32, above which each allocation faults in its pages.
LARGEST_LOGITS = {"cpu": 1 << 23, "cuda": 1 << 28}
CACHED_ROWS = 64


class Span(NamedTuple):
    """A window of a document: its inputs are tokens[begin:end], the targets scored are tokens[first : end + 1]."""

    begin: int
    end: int
    first: int


def spans(tokens: int, window: int, stride: int) -> Iterator[Span]:
    """Windows that score each token of a document but the first exactly once.

    The first window scores all its targets; each later one at most `stride` new ones, and is filled up with the tokens
    before them: a token that is not in the first window has at least window - stride + 1 tokens of context.

    Args:
        tokens: of the document, its first one (bos) included.
        window: inputs of a window at most.
        stride: 1 to window; window: later windows see nothing that the one before scored, but for filling up the last.
    """
    last, end = tokens - 1, 0
    while end < last:
        first = end + 1
        end = min(last, end + stride) if end else min(last, window)
        yield Span(max(0, end - window), end, first)


def document_windows(shard: Shard, documents: np.ndarray, window: int, stride: int) -> list[Item]:
    """The windows of the chosen documents as items for `nll_sums`; `document` is the index in the shard."""
    return [
        _window(shard, document, span)
        for document in documents
        for span in spans(int(shard.lengths[document]), window, stride)
    ]


def _window(shard: Shard, document: int, span: Span) -> Item:
    start = shard.offsets[document]
    lengths = np.array([span.end - span.begin])
    item = gather(shard, start + [span.begin], lengths, shard.offsets[[document + 1]])
    item["labels"][: span.first - span.begin - 1] = IGNORED
    return item | {"document": np.asarray(document)}


def nll_sums(
    model: PreTrainedModel, items: list[Item], batch_size: int, bf16: bool, progress: TextIO
) -> np.ndarray:
    """The negative log-likelihood of each item's labels, in nats: float64 [items].

    An item holds one document alone and padding comes after it, so the causal mask is all the isolation needed.

    Args:
        items: of packing's splits or `document_windows`; each with a label.
        batch_size: sequences a forward at most; fewer where they would have more than LARGEST_LOGITS.
        bf16: compute in bfloat16 (autocast), the softmax in fp32 still.
        progress: where a bar is drawn if it is a terminal.
    """
    from tqdm import tqdm

    sums = np.zeros(len(items))
    with tqdm(total=len(items), desc="scoring", file=progress, disable=not progress.isatty()) as bar:
        for indices in batches(
            items, batch_size, LARGEST_LOGITS[model.device.type] // model.config.vocab_size
        ):
            batch = collate([items[index] for index in indices])
            sums[indices] = batch_nll(model, batch["input_ids"], batch["labels"], bf16).numpy()
            bar.update(len(indices))
    return sums


def batches(items: list[Item], batch_size: int, positions: int) -> Iterator[np.ndarray]:
    """Indices of a batch each: longest sequences first, and of equal lengths those first that are scored latest.

    Args:
        batch_size: sequences at most; positions: those with logits at most, unless one sequence alone has more.
    """
    lengths = np.array([len(item["input_ids"]) for item in items])
    firsts = np.array([first_label(item["labels"]) for item in items])
    batch: list[int] = []
    for index in np.lexsort((-firsts, -lengths)):
        held = np.array([*batch, index])
        if batch and (
            len(held) > batch_size or len(held) * scored_positions(lengths, firsts, held) > positions
        ):
            yield np.array(batch)
            batch = []
        batch.append(int(index))
    yield np.array(batch)


def scored_positions(lengths: np.ndarray, firsts: np.ndarray, batch: np.ndarray) -> int:
    """Positions of each sequence of a batch that get logits: from the earliest first label to the longest's end."""
    return int(lengths[batch].max() - firsts[batch].min())


def first_label(labels: np.ndarray) -> int:
    """The first position along the last axis where some label is scored."""
    return int((labels != IGNORED).reshape(-1, labels.shape[-1]).any(0).argmax())


def batch_nll(model: PreTrainedModel, input_ids_BT: Tensor, labels_BT: Tensor, bf16: bool) -> Tensor:
    """Nats of each sequence's labels, float64 [B] on the CPU; logits are computed from the first label on."""
    import torch

    device = model.device
    labels_BT = labels_BT[:, first_label(labels_BT.numpy()) :]
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        output = model(input_ids=input_ids_BT.to(device), use_cache=False, logits_to_keep=labels_BT.shape[1])
    nll_N = token_nll(output.logits.flatten(0, 1), labels_BT.flatten().to(device))
    return nll_N.view_as(labels_BT).double().sum(1).cpu()


def token_nll(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Nats of each label, fp32 [N], 0 where it is IGNORED; in pieces whose fp32 copies stay in the cache."""
    import torch
    import torch.nn.functional as F

    pieces = zip(logits_NV.split(CACHED_ROWS), labels_N.split(CACHED_ROWS), strict=True)
    return torch.cat(
        [
            F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")
            for logits, labels in pieces
        ]
    )


def sums_by_document(items: list[Item], values: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """`values` [items] summed over the items of each of `documents` (sorted indices): float64 [D]."""
    owners = np.searchsorted(documents, [int(item["document"]) for item in items])
    return np.bincount(owners, weights=values, minlength=len(documents))


def target_counts(items: list[Item]) -> np.ndarray:
    """Labels that each item is scored on, int64 [items]."""
    return np.array([np.count_nonzero(item["labels"] != IGNORED) for item in items])
