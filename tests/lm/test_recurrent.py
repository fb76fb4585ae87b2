"""Catches a layer with a state that flows from one document of a row into the next, or that generation then misses."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.data.packing import PackedConversations, collate
from pipeline.lm import recurrent
from pipeline.lm.isolation import check_isolated
from pipeline.lm.model import build_model
from pipeline.lm.recipe import TokenLoss
from pipeline.run.errors import UserError
from tests.architectures import tiny_config
from tests.tiny_language_model import loss_and_logits, random_documents, shard_of

ROW = 120
LENGTHS = (90, 3, 27, 18, 5, 1, 70, 40, 6, 2)  # of three classes: up to 16, 64 and 120 tokens
NETS = (
    "mamba2",
    "lfm2",
    "qwen3_next",
    "falcon_h1",
)  # a scan alone; a convolution, linear attention, both at once


def net_of(name: str):
    config = tiny_config(name)
    config.get_text_config().max_position_embeddings = ROW
    torch.manual_seed(0)
    return build_model(config, "eager" if name == "mamba2" else "sdpa").eval()


@pytest.fixture
def rows(tmp_path):
    split = PackedConversations(shard_of(tmp_path, random_documents(*LENGTHS)), ROW, None, on_long="error")
    batch = collate([split.item(index) for index in range(split.length)])
    assert len(batch["input_ids"]) == 3
    return batch


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_loss_and_gradients_of_packed_rows_are_those_of_documents_alone(rows, name, checkpoints):
    packed, alone = net_of(name), net_of(name)
    if checkpoints:  # computes layers again in the backward pass, where they must meet the same documents
        packed.train().gradient_checkpointing_enable({"use_reentrant": False})
    loss, _ = loss_and_logits(TokenLoss(packed), rows)
    loss.backward()
    for document in random_documents(*LENGTHS):
        if len(document) > 1:
            ids = torch.tensor([document])
            logits = alone(input_ids=ids, use_cache=False).logits
            F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum").backward()
    weights = dict(alone.named_parameters())
    for name, parameter in packed.named_parameters():
        expected = weights[name].grad
        size = float(expected.abs().max())
        # Measured at worst 3e-5 of the largest entry; a state that flows on moves some by more than 1e-1.
        assert float((parameter.grad - expected).abs().max()) <= 2e-4 * max(size, 1e-3), name


@pytest.mark.parametrize("name", NETS)
def test_generation_after_a_step_is_what_it_was_before(rows, name):
    net = net_of(name)
    start = torch.arange(3, 15)[None]
    before = net.generate(start, max_new_tokens=8, do_sample=False)
    loss, _ = loss_and_logits(TokenLoss(net), rows)
    loss.backward()
    assert torch.equal(net.generate(start, max_new_tokens=8, do_sample=False), before)


def test_every_process_calls_a_layer_as_often_whatever_its_documents_are():
    """Under ZeRO-3 a process that calls a module once more than another waits for it for ever."""
    for ids in ([0] * 100, [0] * 3 + [1] * 97, list(range(100)), [0] * 30 + [1] * 10 + [-1] * 60):
        groups = recurrent.Layout().groups(recurrent.as_mask(torch.tensor([ids])))
        assert len(groups) == 3
        taken = torch.cat([rows[there] for rows, there in groups])
        assert sorted(taken.tolist()) == list(range(100))


def test_a_model_whose_documents_meet_is_refused_before_its_first_step(monkeypatch):
    check_isolated(TokenLoss(net_of("lfm2")))
    monkeypatch.setattr("pipeline.lm.recipe.keep_apart", lambda model: None)
    with pytest.raises(
        UserError, match="in lfm2 a document changes the next one of its row .*\nway out: packing: false"
    ):
        check_isolated(TokenLoss(net_of("lfm2").train()))
