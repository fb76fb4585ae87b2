"""Catches an update rule that is not the published one, a rate that reaches other weights, and settings that vanish."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pipeline.run.config import Optimizer
from pipeline.run.errors import UserError
from pipeline.run.machine import Precision
from pipeline.run.memory import moment_bytes
from pipeline.run.plan import check_optimizer
from pipeline.run.stage import open_recipe
from pipeline.train.engine import STATE, Average
from pipeline.train.engine.eight_bit import KINDS
from pipeline.train.engine.interface import optimizer_of
from pipeline.train.engine.plain import PlainEngine
from pipeline.train.loop import Trainer, steps
from pipeline.train.optimizer import parameter_groups, rule_of
from recipes.gan.train import check
from tests.helpers import ROOT, Toy, toy_training
from tests.tiny_language_model import ALONE, tiny_model


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


@pytest.mark.filterwarnings("ignore:Not changing train/eval:UserWarning")
def test_schedule_free_is_its_authors(tmp_path):
    """Weights y, points z and the average x after each of eight updates at rates that rise and stay."""
    from schedulefree import AdamWScheduleFree

    torch.manual_seed(0)
    ours, theirs = (nn.Linear(6, 5, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    [group] = groups_of(
        ours, optim="schedule_free_adamw", lr_scheduler_type="constant", adam_beta2=0.99, weight_decay=0.1
    )
    mine = optimizer_of([group], "schedule_free_adamw")
    reference = AdamWScheduleFree(theirs.parameters(), lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    reference.train()
    average = Average(SimpleNamespace(
        masters=lambda: [ours.weight], points=lambda: [mine.state[ours.weight]["z"]]
    ), 0.9)  # fmt: skip
    for step in range(8):
        rate = 0.1 * min(1.0, (step + 1) / 4)
        mine.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = rate
        ours.weight.grad = torch.randn(5, 6)
        theirs.weight.grad = ours.weight.grad.clone()
        mine.step(), reference.step()
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(mine.state[ours.weight]["z"], reference.state[theirs.weight]["z"])
        kept = ours.weight.detach().clone()
        reference.eval()
        with average.swapped():
            torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)
        reference.train()
        assert torch.equal(ours.weight, kept)


def test_evaluation_and_the_weights_that_are_kept_are_the_average():
    trainer = Trainer(Toy(toy_training(optim="schedule_free_adamw", lr_scheduler_type="constant")), ALONE)
    for _ in steps(trainer):
        pass
    net, engine = trainer.engines["model"].module, trainer.engines["model"]
    learnt = {name: parameter.detach().clone() for name, parameter in engine.trainable}
    points = {name: engine.optimizer.state[parameter]["z"] for name, parameter in engine.trainable}
    average = {name: (learnt[name] - 0.1 * points[name]) / 0.9 for name in learnt}
    kept = trainer.weights("model")
    with trainer.resting() as nets:
        seen = dict(nets["model"].named_parameters())
        for name, expected in average.items():
            torch.testing.assert_close(kept[name], expected, rtol=1e-4, atol=1e-6)
            assert torch.equal(seen[name], kept[name]) and not torch.equal(kept[name], learnt[name])
    assert all(
        torch.equal(parameter, learnt[name]) for name, parameter in net.named_parameters() if name in learnt
    )


def test_moments_in_8_bits_resume_bit_for_bit_and_are_counted():
    """A matrix of 8,192 numbers, whose moments are codes, and one of 100, whose are not."""

    def engine() -> PlainEngine:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 128, bias=False), nn.Linear(10, 10, bias=False))
        training = toy_training(optim="adamw_8bit")
        return PlainEngine(net, parameter_groups(net, training), training, training, ALONE)

    def update(one: PlainEngine, step: int) -> None:
        torch.manual_seed(step)
        for _, parameter in one.trainable:
            parameter.grad = torch.randn_like(parameter)
        one.update(0.5)

    whole = engine()
    for step in range(3):
        update(whole, step)
    saved = {key: tensor.float().clone() for key, tensor in whole.state(("weight", *STATE))}
    assert {key.split("/")[0] for key in saved if key.endswith("0.weight")} == {"weight", *KINDS}
    assert {key.split("/")[0] for key in saved if key.endswith("1.weight")} == {"weight", "state1", "state2"}
    again = engine()
    again.load(lambda key: saved[key], range(3))
    for step in (3, 4):
        update(whole, step), update(again, step)
    pairs = zip(whole.state(("weight", *STATE)), again.state(("weight", *STATE)), strict=True)
    assert all(torch.equal(one, other) for (_, one), (_, other) in pairs)
    made = [tensor for key, tensor in whole.state(STATE)]
    assert moment_bytes(whole.optimizer.param_groups) == sum(t.numel() * t.element_size() for t in made)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"optim": "schedule_free_adamw"}, "with lr_scheduler_type: cosine"),
        (
            {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant", "ema_decay": 0.9},
            "with ema_decay",
        ),
        (
            {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant", "adam_beta1": 0.0},
            "with adam_beta1: 0",
        ),
    ],
)
def test_what_schedule_free_has_no_use_for_is_refused(fields, said):
    with pytest.raises(UserError, match=said):
        training = toy_training(**{"warmup_steps": 0} | fields)
        check_optimizer(training, 6, training.ema_decay)


def test_a_generator_is_not_averaged_twice():
    """Its optimizer is a section of its own; the shadow is asked for beside it."""
    overrides = ["train.generator.optim=schedule_free_adamw", "train.generator.lr_scheduler_type=constant"]
    config, _ = open_recipe(ROOT / "recipes/gan/ring.yaml", [*overrides, "train.ema_decay=0.9"])
    with pytest.raises(UserError, match="schedule_free_adamw with ema_decay"):
        check(config)


def test_8_bits_without_their_package_are_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="adamw_8bit needs bitsandbytes"):
        check_optimizer(toy_training(optim="adamw_8bit"), 6)


def test_the_two_names_of_adamw_are_one_rule():
    net = tiny_model("llama", 8)
    one, other = (groups_of(net, optim=name) for name in ("adamw", "adamw_torch_fused"))
    assert [g["rule"] for g in one] == [g["rule"] for g in other] == ["adamw", "adamw"]
    assert rule_of("adamw_torch_fused") == "adamw"


@pytest.mark.parametrize("optim", ["adamw", "lion", "adafactor", "schedule_free_adamw"])
def test_the_plan_counts_the_moments_that_an_update_makes(optim):
    net = tiny_model("llama", 8)
    groups = groups_of(net, optim=optim)
    optimizer = optimizer_of(groups, optim)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    made = [
        value
        for state in optimizer.state.values()
        for key, value in state.items()
        if torch.is_tensor(value) and key != "step"
    ]
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


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # DeepSpeed's own, while it is imported
@pytest.mark.parametrize("bf16", [False, True])
def test_muon_iterates_in_what_this_machine_multiplies(bf16, monkeypatch):
    """Catches emulated bf16 on a CPU without it, where the iteration took three quarters of a step."""
    from deepspeed.runtime.zero.muon import original_muon

    monkeypatch.setattr(original_muon, "ns_compute_dtype", lambda ns_method="gram": torch.bfloat16)
    monkeypatch.setattr("pipeline.train.engine.interface.precision", lambda: Precision(bf16, ""))
    optimizer_of(groups_of(tiny_model("llama", 8), optim="muon", max_grad_norm=0), "muon")
    expected = torch.bfloat16 if bf16 else torch.float32
    assert original_muon.ns_compute_dtype("standard") == expected


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
