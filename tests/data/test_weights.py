"""Catches a message's weight that is lost, lands on another message, or leaves the mean's denominator as it was."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.data.chat import ChatEncoder
from pipeline.data.config import Chat
from pipeline.data.packing import IGNORED, PackedConversations, collate
from pipeline.data.shards import Shard, ShardWriter
from pipeline.lm.recipe import LanguageModel, summed_loss
from pipeline.run.errors import UserError
from tests.data.reading import read
from tests.helpers import refusal, toy_training
from tests.tiny_language_model import tiny_model


def talk(*weights):
    return [
        message
        for number, weight in enumerate(weights)
        for message in (
            {"role": "user", "content": f"what is {number}?"},
            {"role": "assistant", "content": "the thing" if number % 2 else "the end", "weight": weight},
        )
    ]


def shard_of(tmp_path, tokenizer, *talks) -> Shard:
    encoder = ChatEncoder(tokenizer)
    with ShardWriter(tmp_path, "conversations", len(tokenizer), "") as writer:
        for messages in talks:
            writer.add(*encoder.encode(encoder.lay_out(messages))[:4])
    return Shard.open(tmp_path, "conversations")


@pytest.fixture(params=["pieces", "offsets"])
def tokenizer(request, ours, monkeypatch):
    if request.param == "offsets":
        monkeypatch.setattr(ChatEncoder, "_beside_control_tokens", True)
    return ours


def test_each_answer_has_its_weight_from_the_row_to_the_batch(tmp_path, tokenizer):
    shard = shard_of(tmp_path, tokenizer, talk(0.5, 2.0), talk(1.0), talk(2.0))
    assert sorted(shard.weights.tolist()) == [0.0, 0.5, 1.0, 2.0]
    split = PackedConversations(shard, 64, None, on_long="error")
    for row in range(split.length):
        item = split.item(row)
        assert (item["weights"] > 0).tolist() == (item["labels"] != IGNORED).tolist()
    items = [split.item(row) for row in range(split.length)]
    found = {}
    for item in items:
        for weight in (0.5, 1.0, 2.0):
            found[weight] = found.get(weight, "") + tokenizer.decode(
                item["labels"][item["weights"] == weight]
            )
    assert found == {0.5: "the end<|end|>", 1.0: "the end<|end|>", 2.0: "the thing<|end|>the end<|end|>"}
    assert collate(items)["weights"].dtype == torch.float32


def test_a_shard_of_whole_weights_gives_none(tmp_path, ours):
    shard = shard_of(tmp_path, ours, talk(1.0))
    assert shard.weights.tolist() == [0.0, 1.0]
    assert "weights" not in PackedConversations(shard, 64, None, on_long="error").item(0)


def test_the_loss_is_the_weighted_sum_and_the_count_the_sum_of_weights():
    torch.manual_seed(0)
    logits = torch.randn(2, 9, 17, requires_grad=True)
    labels = torch.randint(0, 17, (2, 9))
    labels[0, :4] = IGNORED
    weights = torch.rand(2, 9) * (labels != IGNORED)
    ours = summed_loss(logits, labels, weights)
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    theirs = (each * weights.flatten()).sum()
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)
    recipe = LanguageModel(toy_training(), lambda: tiny_model("llama", 16), None, None, 9)
    assert recipe.count("model", {"labels": labels, "weights": weights}) == pytest.approx(
        float(weights.sum())
    )


def test_weights_of_one_are_no_weights():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 9, 17), torch.randint(0, 17, (2, 9))
    assert torch.equal(summed_loss(logits, labels, torch.ones(2, 9)), summed_loss(logits, labels))


def test_a_weight_of_nothing_is_not_taught(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps([{"messages": talk(0, 1)}]))
    [found], _ = read(Chat(path=str(tmp_path)))
    assert [message.get("train", True) for message in found.messages] == [True, False, True, True]


@pytest.mark.parametrize("weight", [-1, "x", True, float("inf")])
def test_what_is_no_weight_is_named(tmp_path, weight):
    (tmp_path / "d.json").write_text(json.dumps([{"messages": talk(weight)}]))
    assert "d.json row 0: message 1 has weight: " in refusal(read, Chat(path=str(tmp_path)))


def test_more_weights_than_a_byte_tells_apart_are_refused(tmp_path, ours):
    with pytest.raises(UserError, match="more than 254 different weights"):
        shard_of(tmp_path, ours, *(talk(weight) for weight in np.linspace(0.1, 0.9, 300).tolist()))
