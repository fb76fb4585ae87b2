"""Catches packing that trains something else than its documents: another loss, logit or gradient than each has alone.

The reference is plain transformers, run on each document by itself: no mask, no positions, no padding, no packing.
Letters: B rows, T positions, V vocabulary entries, N tokens of one document.
"""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipeline.data.packing import PackedConversations, PackedDocuments, collate
from pipeline.lm.recipe import TokenLoss
from tests.tiny_language_model import (
    ARCHITECTURES,
    INPUTS,
    loss_and_logits,
    random_documents,
    shard_of,
    tiny_model,
)

ROW = 40
DOCUMENTS = random_documents(11, 2, 30, 7, 19, 40, 5, 26, 3, 13)
Piece = tuple[tuple[int, ...], list[int]]  # the inputs of a document in one row, and their targets


@pytest.fixture(params=["whole", "cut"])
def packed(request, tmp_path):
    """(batch, pieces): whole documents by best fit, or documents end to end, cut at the ends of rows."""
    shard = shard_of(tmp_path, DOCUMENTS)
    if request.param == "whole":
        split = PackedConversations(shard, ROW, None, on_long="error")
        pieces = [(tuple(document), document[1:]) for document in DOCUMENTS]
    else:
        split = PackedDocuments(shard, ROW, None)
        pieces = cut(DOCUMENTS)
    return collate([split.item(index) for index in range(split.length)]), pieces


def cut(documents: list[list[int]]) -> list[Piece]:
    """`documents` end to end, cut at every multiple of ROW."""
    pieces, begin = [], 0
    for document in documents:
        within = range(-begin % ROW, len(document), ROW)
        cuts = sorted({0, *within, len(document)})
        pieces += [(tuple(document[a:b]), document[a + 1 : b + 1]) for a, b in pairwise(cuts)]
        begin += len(document)
    return pieces


def apart(batch: dict[str, Tensor], logits_BTV: Tensor) -> dict[tuple[int, ...], Tensor]:
    """The logits [N, V] of each document of each row, by its inputs."""
    found = {}
    for tokens, ids, logits in zip(batch["input_ids"], batch["document_ids"], logits_BTV, strict=True):
        for document in range(int(ids.max()) + 1):
            inputs = tuple(tokens[ids == document].tolist())
            assert inputs not in found, "the documents of this test are unlike one another"
            found[inputs] = logits[ids == document]
    return found


def alone(model: nn.Module, pieces: list[Piece]) -> tuple[Tensor, dict[tuple[int, ...], Tensor]]:
    """(summed loss, logits [N, V] by inputs) of `model` on one piece at a time."""
    logits = {inputs: model(torch.tensor([inputs])).logits[0] for inputs, _ in pieces}
    losses = [
        F.cross_entropy(logits[inputs][: len(targets)], torch.tensor(targets), reduction="sum")
        for inputs, targets in pieces
        if targets
    ]
    return torch.stack(losses).sum(), logits


def plain_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that transformers made by itself, with its own choice of attention."""
    config = type(model.config).from_dict(model.config.to_dict())
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(model.state_dict())
    return plain.eval()


def gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest value."""
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_packed_row_has_the_loss_logits_and_gradients_of_its_documents_alone(
    architecture, attention, packed
):
    batch, pieces = packed
    model = tiny_model(architecture, ROW, attention)
    plain = plain_copy(model)
    loss, logits = loss_and_logits(TokenLoss(model), batch)
    expected_loss, expected_logits = alone(plain, pieces)
    loss.backward()
    expected_loss.backward()

    found = apart(batch, logits)
    assert found.keys() == expected_logits.keys()
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    # Measured at worst, with one and two threads: 1.0e-7, 1.4e-6, 1.3e-6. bf16 is 1e-2 off.
    assert loss.item() == pytest.approx(expected_loss.item(), rel=2e-7)
    for inputs, expected in expected_logits.items():
        assert gap(found[inputs], expected) < 2.5e-6
    for name, parameter in model.named_parameters():
        assert gap(parameter.grad, gradients[name]) < 2.5e-6, name


def test_learned_positions_begin_again_in_each_document(tmp_path):
    documents = random_documents(11, 2, 7, 19)
    split = PackedConversations(shard_of(tmp_path, documents), ROW, None, on_long="error")
    batch = collate([split.item(0)])
    assert split.length == 1 and int((batch["document_ids"] >= 0).sum()) == 39
    model = tiny_model("gpt2", ROW)
    TokenLoss(model)(*(batch[name] for name in INPUTS)).backward()
    used = model.transformer.wpe.weight.grad.abs().sum(dim=1) > 0
    assert used.tolist() == [position < 18 for position in range(ROW)]  # the 19th token has no target
