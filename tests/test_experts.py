"""Catches a balance loss that is left out, that is another one than transformers', or that depends on micro-batches."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from pipeline.data.packing import PackedDocuments, collate
from pipeline.lm.config import Model
from pipeline.lm.experts import routers_of
from pipeline.lm.model import build_config, build_model
from pipeline.lm.recipe import LanguageModel, TokenLoss, balance_weight, flops_per_token
from pipeline.run.config import Training
from pipeline.train.loop import Trainer, steps
from tests.tiny_language_model import ALONE, ARCHITECTURES, INPUTS, VOCABULARY, random_documents, shard_of

LENGTH, WEIGHT = 32, 0.1
FIELDS = {
    "initializer_range": 0.3,
    "router_aux_loss_coef": WEIGHT,
    "num_experts_per_tok": 2,
    "output_router_logits": True,
}
NETS = {
    "mixtral": FIELDS | {"num_local_experts": 4},
    "qwen3_moe": FIELDS | {"num_experts": 4, "moe_intermediate_size": 16},
    "gpt_oss": FIELDS | {"num_local_experts": 4, "head_dim": 8},
}


def net_of(name: str = "mixtral", **changes):
    model = Model(architecture=name, config=ARCHITECTURES["llama"] | NETS[name] | changes)
    torch.manual_seed(0)
    return build_model(build_config(model, VOCABULARY, {"pad_token_id": 2}, LENGTH), "eager")


CHECKPOINTING = "ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"  # transformers 5.23


@pytest.fixture
def split(tmp_path: Path) -> PackedDocuments:
    """Rows of 32 tokens; the last one has 20 and padding."""
    return PackedDocuments(shard_of(tmp_path, random_documents(12, 20, 3, 40, 9, 32)), LENGTH, None)


def balance_of(net, batch):
    found = TokenLoss(net).eval()(*(batch[name] for name in INPUTS))
    return found[1]


@pytest.mark.parametrize("name", NETS)
def test_the_balance_of_a_row_is_transformers_own_of_its_tokens(name, split):
    """Also of the row that ends in padding, which counts nowhere."""
    net = net_of(name)
    for index in (0, split.length - 1):
        batch = collate([split.item(index)])
        (ours,) = balance_of(net, batch).balance_B
        valid = batch["document_ids"] >= 0
        routers = routers_of(net)
        routers.listen()
        TokenLoss(net).eval()(*(batch[entry] for entry in INPUTS))
        said = tuple(logits.reshape(-1, 4) for logits in routers._said)
        theirs = load_balancing_loss_func(said, 4, 2, valid)
        assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6)
        assert (
            len(said) == 2 and 2 <= float(ours.detach()) < 8
        )  # even: 2 choices; all to the same two: 8 x 2 / 4


def test_a_full_load_is_told_from_an_even_one(split):
    even, full = net_of(), net_of()
    with torch.no_grad():
        for layer in full.model.layers:
            layer.mlp.gate.weight.zero_()
            layer.mlp.gate.weight[1] = (
                1e-3  # ties go to the first expert, and the second wins or loses with a token
            )
    batch = collate([split.item(0)])
    found = [balance_of(net, batch) for net in (even, full)]
    loads = [float(one.load_B[0].detach()) for one in found]
    least = [float(one.least_B[0].detach()) for one in found]
    assert 1 <= loads[0] < 1.7 and loads[1] == pytest.approx(2)  # one expert is in each pair: 4 x 1 / 2
    assert 0.3 < least[0] <= 1 and least[1] == 0  # the last expert is in none


def trained(split, micro: int, **fields):
    settings = {"learning_rate": 1e-2, "max_steps": 3, "train_batch_size": 4, "bf16": False} | fields
    training = Training(per_device_train_batch_size=micro, **settings)
    trainer = Trainer(LanguageModel(training, net_of, split, None, LENGTH), ALONE)
    return list(steps(trainer)), dict(trainer.tensors())


def test_how_a_step_is_cut_into_micro_batches_changes_nothing(split):
    (whole, weights), (cut, others) = trained(split, 4), trained(split, 1)
    for one, other in zip(whole, cut, strict=True):
        for part in ("loss", "cross_entropy", "router_balance", "router_load", "router_least"):
            sums = (one.sums[f"model/{part}"], other.sums[f"model/{part}"])
            assert sums[0].mean == pytest.approx(sums[1].mean, rel=1e-5)
    for name, tensor in weights.items():
        if "/weight/" in name:
            torch.testing.assert_close(others[name], tensor, rtol=0, atol=2e-4)  # AdamW's steps are 1e-2


def test_the_loss_is_the_cross_entropy_and_the_weighted_balance(split):
    (first, *_), _ = trained(split, 2)
    means = {name.removeprefix("model/"): figure.mean for name, figure in first.sums.items()}
    assert means["loss"] == pytest.approx(means["cross_entropy"] + WEIGHT * means["router_balance"], rel=1e-6)


def test_the_balance_teaches_the_routers(split):
    """Catches a balance that is logged and not differentiated: from a lopsided start the load must even out."""
    loads = {}
    for weight in (0.0, 2.0):
        training = Training(
            learning_rate=1e-2, max_steps=20, train_batch_size=4, per_device_train_batch_size=4, bf16=False
        )
        build = lambda weight=weight: net_of(router_aux_loss_coef=weight or 1e-9)  # noqa: E731
        infos = list(steps(Trainer(LanguageModel(training, build, split, None, LENGTH), ALONE)))
        loads[weight] = infos[-1].sums["model/router_balance"].mean
    assert loads[2.0] < loads[0.0] - 0.02


@pytest.mark.filterwarnings(CHECKPOINTING)
def test_activation_checkpoints_are_heard_once(split):
    plain, _ = trained(split, 2)
    again, _ = trained(split, 2, gradient_checkpointing=True)
    assert [info.sums["model/router_balance"].mean for info in plain] == pytest.approx(
        [info.sums["model/router_balance"].mean for info in again], rel=1e-6
    )


def test_dense_models_and_a_weight_of_zero_have_none():
    assert balance_weight(net_of(router_aux_loss_coef=0.0).config) == 0
    assert routers_of(net_of(router_aux_loss_coef=0.0)) is None
    doge = AutoConfig.for_model(
        "doge", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=64
    )
    assert balance_weight(doge) > 0 and not doge.is_moe  # a weight, and nothing to weigh
    assert routers_of(AutoModelForCausalLM.from_config(doge)) is None


def test_work_is_counted_for_the_experts_that_a_token_passes_through():
    net = net_of()
    inside = sum(p.numel() for name, p in net.named_parameters() if ".experts." in name)
    outside = sum(p.numel() for p in net.parameters()) - inside - net.get_input_embeddings().weight.numel()
    scores = 12 * 2 * 32 * LENGTH  # 12 L d T
    assert inside > 0 and flops_per_token(net, LENGTH) == 6 * (outside + inside / 2) + scores
