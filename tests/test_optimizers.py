"""Catches an update rule that is not the published one, a rate that reaches other weights, and settings that vanish."""

import pytest
import torch
from torch import nn

from pipeline.run.config import Optimizer
from pipeline.run.errors import UserError
from pipeline.run.memory import moment_bytes
from pipeline.train.engine.interface import optimizer_of
from pipeline.train.optimizer import parameter_groups, rule_of
from tests.tiny_language_model import tiny_model


def groups_of(net: nn.Module, **fields) -> list[dict]:
    return parameter_groups(net, Optimizer(learning_rate=0.1, **fields))


def rates(net: nn.Module, **fields) -> dict[str, float]:
    """Peak rate over the optimizer's own, by name."""
    peaks = {id(p): group["peak"] / 0.1 for group in groups_of(net, **fields) for p in group["params"]}
    return {name: peaks[id(parameter)] for name, parameter in net.named_parameters()}


def test_lion_is_its_papers_algorithm():
    torch.manual_seed(0)
    weight, moment = torch.randn(5, 3), torch.zeros(5, 3)
    layer = nn.Linear(3, 5, bias=False)
    layer.weight.data.copy_(weight)
    [group] = groups_of(layer, optim="lion", adam_beta1=0.9, adam_beta2=0.99, weight_decay=0.2)
    optimizer = optimizer_of([group], "lion")
    for _ in range(3):
        gradient = torch.randn(5, 3)
        layer.weight.grad = gradient.clone()
        optimizer.step()
        direction = (0.9 * moment + 0.1 * gradient).sign()
        weight = weight - 0.1 * (direction + 0.2 * weight)
        moment = 0.99 * moment + 0.01 * gradient
    torch.testing.assert_close(layer.weight.data, weight)
    torch.testing.assert_close(optimizer.state[layer.weight]["exp_avg"], moment)


def test_the_two_names_of_adamw_are_one_rule():
    net = tiny_model("llama", 8)
    one, other = (groups_of(net, optim=name) for name in ("adamw", "adamw_torch_fused"))
    assert [g["rule"] for g in one] == [g["rule"] for g in other] == ["adamw", "adamw"]
    assert rule_of("adamw_torch_fused") == "adamw"


@pytest.mark.parametrize("optim", ["adamw", "lion", "adafactor"])
def test_the_plan_counts_the_moments_that_an_update_makes(optim):
    net = tiny_model("llama", 8)
    groups = groups_of(net, optim=optim)
    optimizer = optimizer_of(groups, optim)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    made = [value for state in optimizer.state.values() for key, value in state.items() if key != "step"]
    assert moment_bytes(groups) == sum(tensor.numel() * 4 for tensor in made)


def test_a_pattern_sets_the_rate_of_what_it_names_and_the_first_one_counts():
    net = nn.ModuleDict({"model": tiny_model("llama", 8)})
    found = rates(net, learning_rate_of={"lm_head.*": 0.5, "*.layers.1.*": 2.0, "*.layers.*": 3.0})
    assert found["model.lm_head.weight"] == pytest.approx(0.5)
    assert found["model.model.layers.1.mlp.up_proj.weight"] == pytest.approx(2)
    assert found["model.model.layers.0.input_layernorm.weight"] == pytest.approx(3)
    assert found["model.model.embed_tokens.weight"] == pytest.approx(1)


def test_each_layer_below_learns_more_slowly_and_the_embedding_slowest():
    found = rates(tiny_model("llama", 8), layerwise_lr_decay=0.5)
    assert found["lm_head.weight"] == found["model.norm.weight"] == pytest.approx(1)
    assert found["model.layers.1.mlp.up_proj.weight"] == pytest.approx(0.5)
    assert found["model.layers.0.mlp.up_proj.weight"] == pytest.approx(0.25)
    assert found["model.embed_tokens.weight"] == pytest.approx(0.125)


def test_muons_matrices_take_factors_too():
    net = tiny_model("llama", 8)
    groups = groups_of(net, optim="muon", max_grad_norm=0, learning_rate_of={"*.layers.0.*": 0.5})
    muon = {round(group["peak"], 6) for group in groups if group["use_muon"]}
    assert muon == {0.02, 0.01}


def test_vectors_do_not_decay_whatever_their_rate():
    net = tiny_model("llama", 8)
    for group in groups_of(net, weight_decay=0.1, layerwise_lr_decay=0.9):
        assert {parameter.ndim >= 2 for parameter in group["params"]} == {group["weight_decay"] > 0}


def test_a_pattern_that_names_nothing_is_refused():
    with pytest.raises(UserError, match="learning_rate_of: 'lm_haed.*' matches no weight"):
        groups_of(tiny_model("llama", 8), learning_rate_of={"lm_haed.*": 0.1})
