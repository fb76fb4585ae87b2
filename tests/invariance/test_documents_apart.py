"""Catches a leak: a logit that depends on another document, on a later token, or on what lies under padding.

A masked score enters a softmax as exactly zero, so everything here is equality, in every precision.
Letters: B rows, T positions, V vocabulary entries.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.data.packing import PackedDocuments, collate
from pipeline.lm.recipe import TokenLoss
from pipeline.train.recipe import Batch
from tests.tiny_language_model import (
    ARCHITECTURES,
    VOCABULARY,
    loss_and_logits,
    random_documents,
    shard_of,
    tiny_model,
)

PRECISIONS = (
    "fp32",
    "bf16 weights",
    "bf16 autocast",
)  # autocast on one process and DDP, bf16 weights under ZeRO
LONG = 1200  # positions; the fused attention of a CPU takes 512 keys at a time, so whole blocks of them are masked


def packed(directory: Path, row: int, *lengths: int) -> Batch:
    """Documents of these lengths end to end in rows of `row` positions, the last of which is padded."""
    split = PackedDocuments(shard_of(directory, random_documents(*lengths)), row, None)
    return collate([split.item(index) for index in range(split.length)])


def other(batch: Batch, where_BT: Tensor) -> Batch:
    """`batch` with another token at each place in `where_BT`."""
    tokens_BT = batch["input_ids"]
    return batch | {"input_ids": torch.where(where_BT, (tokens_BT + 1) % VOCABULARY, tokens_BT)}


def precise(model, precision: str) -> tuple[TokenLoss, AbstractContextManager]:
    if precision == "bf16 weights":
        return TokenLoss(model.bfloat16()), nullcontext()
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16 autocast" else nullcontext()
    return TokenLoss(model), autocast


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_token_bears_on_itself_and_the_rest_of_its_document_alone(
    tmp_path, architecture, attention, precision
):
    batch = packed(tmp_path, 14, 4, 7, 3, 9)  # a row of three documents, and a row of one with padding
    net, context = precise(tiny_model(architecture, 14, attention), precision)
    rows, positions = torch.meshgrid(torch.arange(2), torch.arange(14), indexing="ij")
    with torch.no_grad(), context:
        _, before = loss_and_logits(net, batch)
        assert before.dtype == (torch.float32 if precision == "fp32" else torch.bfloat16)
        for row, position in zip(rows.flatten(), positions.flatten(), strict=True):
            _, after = loss_and_logits(net, other(batch, (rows == row) & (positions == position)))
            same = batch["document_ids"] == batch["document_ids"][row, position]
            expected = (rows == row) & same & (positions >= position)
            assert torch.equal((after != before).any(dim=-1), expected), f"row {row}, position {position}"


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash"])
@pytest.mark.parametrize("changed", [0, 1, 2])
def test_documents_longer_than_a_block_of_keys_stay_apart(tmp_path, attention, changed):
    batch = packed(tmp_path, LONG, 600, 550, 30)
    net = TokenLoss(tiny_model("llama", LONG, attention, num_hidden_layers=1))
    where = batch["document_ids"] == changed
    with torch.no_grad():
        _, before = loss_and_logits(net, batch)
        _, after = loss_and_logits(net, other(batch, where))
    assert before.isfinite().all()
    assert torch.equal((after != before).any(dim=-1), where)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("attention", ["sdpa", "eager", "flash"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_bears_on_neither_the_loss_nor_a_gradient(tmp_path, architecture, attention, precision):
    batch = packed(tmp_path, 14, 4, 7, 3, 9)
    padding = batch["document_ids"] == -1
    assert padding.sum() == 5
    seen = []
    for given in (batch, other(batch, padding)):
        net, context = precise(tiny_model(architecture, 14, attention), precision)
        with context:
            loss, _ = loss_and_logits(net, given)
        loss.backward()
        seen.append([loss.detach(), *(parameter.grad for parameter in net.parameters())])
    assert all(value.isfinite().all() and value.any() for value in seen[0])
    assert all(map(torch.equal, *seen))
