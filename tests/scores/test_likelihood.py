"""Catches tokens scored twice, missed, or with another context than stated, and sums that depend on batches."""

import io
import math

import numpy as np
import pytest
import torch

from pipeline.data.packing import Conversations
from pipeline.data.shards import Shard, ShardWriter
from pipeline.scores.bits import DocumentBits
from pipeline.scores.likelihood import (
    batches,
    document_windows,
    nll_sums,
    spans,
    sums_by_document,
    target_counts,
)
from pipeline.scores.score import Settings
from tests.stages.tiny_model import VOCABULARY, make_model

# Worst relative difference of a window's sum between batches of 1, 2, 3, 7 and 16, six models, three sets of documents:
# 2.5e-7 in fp32, 1.4e-3 in bfloat16, where a matrix product of another shape rounds otherwise. bf16 - fp32: 7e-3.
FP32, BF16 = 5e-7, 3e-3


@pytest.fixture
def documents():
    """Documents of 1 to 60 tokens."""
    random = np.random.default_rng(0)
    return [random.integers(0, VOCABULARY, length) for length in (1, 2, 8, 9, 16, 17, 31, 40, 60, 60)]


@pytest.fixture
def shard(tmp_path, documents):
    with ShardWriter(tmp_path, "documents", VOCABULARY, "a" * 64) as writer:
        for tokens in documents:
            writer.add(tokens, np.array([len(tokens)]), np.array([3 * len(tokens)]))
    return Shard.open(tmp_path, "documents")


def sums(model, items, batch_size=4, bf16=False):
    return nll_sums(model, items, batch_size, bf16, io.StringIO())


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (8, 8), (8, 4), (7, 3), (64, 32)])
def test_spans_score_every_token_but_the_first_once_and_in_context(window, stride):
    for tokens in range(1, 40):
        found = list(spans(tokens, window, stride))
        assert [token for span in found for token in range(span.first, span.end + 1)] == list(
            range(1, tokens)
        )
        assert all(0 <= span.begin and span.end - span.begin <= window for span in found)
        assert all(span.begin == 0 or span.first - span.begin >= window - stride + 1 for span in found)


def test_windows_sum_to_what_the_model_says_of_each_token_in_its_window(shard, documents):
    model, window, stride = make_model(0), 16, 8
    items = document_windows(shard, np.arange(len(documents)), window, stride)
    found = sums_by_document(items, sums(model, items), np.arange(len(documents)))
    for tokens, given in zip(documents, found, strict=True):
        expected = 0.0
        for target in range(1, len(tokens)):
            span = next(span for span in spans(len(tokens), window, stride) if span.end >= target)
            with torch.no_grad():
                logits = model(torch.tensor(tokens[None, span.begin : target])).logits[0, -1]
            expected -= float(logits.log_softmax(-1)[tokens[target]])
        assert given == pytest.approx(expected, rel=FP32)


def test_a_model_that_knows_nothing_needs_the_logarithm_of_its_vocabulary(shard, documents):
    model = make_model(0)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    rows = [{"key": str(i), "text": "x" * 3 * len(tokens)} for i, tokens in enumerate(documents)]
    settings = Settings(
        seed=0, window=16, bf16=False, batch_size=4, bootstrap_samples=100, progress=io.StringIO()
    )
    part = DocumentBits(shard, rows, None, settings)
    nats = part.measure(model, None)
    targets = [len(tokens) - 1 for tokens in documents]
    assert nats == [count * float(np.log(np.float32(VOCABULARY))) for count in targets]
    score = part.scores({"base": nats})[0]
    expected = math.log2(VOCABULARY) * sum(targets) / sum(len(row["text"]) for row in rows)
    assert score.value == pytest.approx(expected, rel=1e-7)  # the loss of a token is fp32


@pytest.mark.parametrize(("bf16", "tolerance"), [(False, FP32), (True, BF16)])
def test_batches_do_not_change_sums(shard, documents, bf16, tolerance):
    model = make_model(1)
    items = document_windows(shard, np.arange(len(documents)), 16, 8)
    alone = sums(model, items, 1, bf16)
    for batch_size in (2, 3, 7, 16):
        assert sums(model, items, batch_size, bf16) == pytest.approx(alone, rel=tolerance)


@pytest.mark.parametrize(("batch_size", "positions"), [(1, 10**6), (3, 10**6), (16, 40), (16, 1)])
def test_every_item_is_in_one_batch_and_batches_are_bounded(shard, documents, batch_size, positions):
    items = document_windows(shard, np.arange(len(documents)), 16, 8)
    found = list(batches(items, batch_size, positions))
    assert sorted(np.concatenate(found)) == list(range(len(items)))
    for batch in found:
        lengths = [len(items[index]["input_ids"]) for index in batch]
        scored = max(lengths) - min(int((items[index]["labels"] != -100).argmax()) for index in batch)
        assert len(batch) <= batch_size
        assert len(batch) == 1 or scored * len(batch) <= positions
        assert max(lengths) == lengths[0]


def test_bfloat16_is_no_fp32(shard, documents):
    model = make_model(1)
    items = document_windows(shard, np.arange(len(documents)), 16, 8)
    assert sums(model, items, 4, True) != pytest.approx(sums(model, items, 4, False), rel=FP32)


def test_only_supervised_tokens_of_a_conversation_are_summed(tmp_path):
    tokens, targets = np.array([5, 6, 7, 8, 9, 10]), np.array([0, 0, 0, 1, 1, 0])
    with ShardWriter(tmp_path, "conversations", VOCABULARY, "a" * 64) as writer:
        writer.add(tokens, np.array([6]), np.array([2]), targets)
        writer.add(tokens[:2], np.array([2]), np.array([2]), np.array([0, 1]))
    split, model = Conversations(Shard.open(tmp_path, "conversations"), 32), make_model(2)
    items = [split.item(index) for index in range(split.length)]
    with torch.no_grad():
        logp = model(torch.tensor(tokens[None])).logits[0].log_softmax(-1)
    expected = [-float(logp[2, 8] + logp[3, 9]), -float(logp[0, 6])]
    assert sums(model, items, 2) == pytest.approx(expected, rel=FP32)
    assert target_counts(items).tolist() == [2, 1]
