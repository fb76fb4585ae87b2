"""Catches training that moves a weight it should not or leaves one behind, and a merge that is another model."""

import math
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from pipeline.lm import model
from pipeline.lm.config import Lora
from pipeline.lm.recipe import decoder_layers
from pipeline.lm.tuning import lora
from pipeline.run.config import Optimizer
from pipeline.run.errors import UserError
from tests.tiny_language_model import ARCHITECTURES, VOCABULARY, random_documents, tiny_model, trained

pytestmark = pytest.mark.filterwarnings(  # peft 0.21 asks transformers 5.23 under old names
    "ignore:`(is_gradient_checkpointing|gradient_checkpointing_enable)` is deprecated:FutureWarning"
)
DOCUMENTS = random_documents(9, 12, 7, 15, 10, 5)
TARGETS = {"llama": ("q_proj", "down_proj"), "gpt2": ("c_attn", "c_fc"), "qwen3": ("k_proj", "v_proj")}
PER_LAYER = {"llama": 7, "gpt2": 4, "qwen3": 7}  # linear modules of a block; the output head is none of them
KINDS = {
    "targets": {},
    "all-linear": {"target_modules": "all-linear"},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
}
EVERY_CASE = [(architecture, kind) for architecture in ARCHITECTURES for kind in KINDS]


def adapted(architecture: str, kind: str) -> PeftModel:
    """A tiny model with fresh adapters of rank 4 and alpha 6."""
    settings: dict[str, Any] = {"target_modules": TARGETS[architecture]} | KINDS[kind]
    return lora.add_adapters(tiny_model(architecture, 32), Lora(r=4, lora_alpha=6.0, **settings))


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


@torch.no_grad()
def logits(net: nn.Module) -> Tensor:
    """[1, T, V] of a row of every token."""
    return net.eval()(input_ids=torch.arange(32)[None] % VOCABULARY).logits


def adapted_modules(net: PeftModel) -> set[str]:
    return {name.split(".lora_A")[0] for name, _ in net.named_parameters() if "lora_A" in name}


@pytest.mark.parametrize(("architecture", "kind"), EVERY_CASE)
def test_the_adapters_are_where_they_are_asked_for(architecture, kind):
    found = adapted_modules(adapted(architecture, kind))
    if kind == "all-linear":
        assert len(found) == 2 * PER_LAYER[architecture]
        assert not any("lm_head" in name for name in found)
    else:
        assert sorted(name.rsplit(".", 1)[-1] for name in found) == sorted(2 * TARGETS[architecture])


@pytest.mark.parametrize(("architecture", "kind"), EVERY_CASE)
def test_fresh_adapters_change_no_logit(architecture, kind):
    assert torch.equal(logits(adapted(architecture, kind)), logits(tiny_model(architecture, 32)))


@pytest.mark.parametrize(("architecture", "kind"), EVERY_CASE)
def test_training_changes_every_adapter_and_no_base_weight(tmp_path, architecture, kind):
    net = adapted(architecture, kind)
    before = weights(net)
    _, figures = trained(tmp_path, DOCUMENTS, lambda: net)
    expected = {name for name in before if "lora_" in name}
    tensors_each = 3 if kind == "dora" else 2
    assert len(expected) == tensors_each * len(adapted_modules(net))
    assert changed(before, weights(net)) == expected
    assert figures[-1][0] < figures[0][0] - 0.1


@pytest.mark.parametrize(("architecture", "kind"), EVERY_CASE)
def test_the_merged_model_is_the_trained_one(tmp_path, architecture, kind):
    """As fine-tuning hands over: the trainer's weights into a fresh model, which is then merged."""
    trainer, _ = trained(tmp_path, DOCUMENTS, lambda: adapted(architecture, kind))
    handed = {name.removeprefix("model."): tensor for name, tensor in trainer.weights("model").items()}
    fresh = adapted(architecture, kind)
    assert handed.keys() == {name for name in weights(fresh) if "lora_" in name}
    model.load_weights(fresh, handed)
    live = logits(trainer.nets()["model"].model)
    assert torch.equal(logits(fresh), live)
    expected = merged_by_hand(fresh, kind)
    merged = fresh.merge_and_unload()
    plain = tiny_model(architecture, 32)
    assert weights(merged).keys() == weights(plain).keys()
    assert changed(weights(plain), weights(merged)) == expected.keys()
    for name, matrix in expected.items():
        torch.testing.assert_close(weights(merged)[name], matrix, rtol=0, atol=3e-7)  # measured 1.2e-7
    scale = live.abs().max()
    assert (logits(merged) - live).abs().max() < 3e-6 * scale  # measured 1.7e-6
    assert (logits(plain) - live).abs().max() > 0.1 * scale


@torch.no_grad()
def merged_by_hand(net: PeftModel, kind: str) -> dict[str, Tensor]:
    """W + scale B A of every adapted module (Hu et al., 2021); DoRA's rows then get its norm (Liu et al., 2024)."""
    scale = 6.0 / (math.sqrt(4) if kind == "rslora" else 4)  # alpha / sqrt(r): Kalajdzievski, 2023
    tensors, merged = dict(net.named_parameters()), {}
    for name in adapted_modules(net):
        a, b = (tensors[f"{name}.lora_{letter}.default.weight"] for letter in "AB")
        base = tensors[f"{name}.base_layer.weight"]
        transposed = net.config.model_type == "gpt2"  # keeps its matrices [in, out]
        matrix = (base.T if transposed else base) + scale * b @ a
        if kind == "dora":
            norms = matrix.norm(dim=1, keepdim=True)
            matrix = tensors[f"{name}.lora_magnitude_vector.default.weight"][:, None] * matrix / norms
        merged[name.removeprefix("base_model.model.") + ".weight"] = matrix.T if transposed else matrix
    return merged


EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
OF_EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


def mixture() -> PeftModel:
    net = tiny_model("mixtral", 32, **ARCHITECTURES["llama"], **EXPERTS)
    return lora.add_adapters(
        net, Lora(r=4, lora_alpha=6.0, target_modules=("q_proj",), target_parameters=OF_EXPERTS)
    )


def test_the_experts_of_a_mixture_are_adapted_trained_and_merged(tmp_path):
    """They are one tensor of three dimensions, which no name of a module reaches."""
    plain = tiny_model("mixtral", 32, **ARCHITECTURES["llama"], **EXPERTS)
    assert torch.equal(logits(mixture()), logits(plain))
    net = mixture()
    before = weights(net)
    trainer, figures = trained(tmp_path, DOCUMENTS, lambda: net)
    moved = changed(before, weights(net))
    assert moved == {name for name in before if "lora_" in name}
    assert sum(".experts." in name for name in moved) == 2 * 2 * 2  # A and B of two tensors in two layers
    handed = {name.removeprefix("model."): tensor for name, tensor in trainer.weights("model").items()}
    fresh = mixture()
    model.load_weights(fresh, handed)
    live = logits(trainer.nets()["model"].model)
    merged = fresh.merge_and_unload()
    assert weights(merged).keys() == weights(plain).keys()
    grown = {
        name.rsplit(".", 1)[-1] for name in changed(weights(plain), weights(merged)) if "experts" in name
    }
    assert grown == {"gate_up_proj", "down_proj"}
    assert (logits(merged) - live).abs().max() < 1e-5 * live.abs().max()
    assert (logits(plain) - live).abs().max() > 0.1 * live.abs().max()


def test_tensors_that_are_not_there_are_refused():
    net = tiny_model("mixtral", 32, **ARCHITECTURES["llama"], **EXPERTS)
    with pytest.raises(UserError, match="'experts.up' matches no tensor(.|\n)*experts.gate_up_proj"):
        lora.check_targets(net, Lora(target_parameters=("experts.up",)))
    with pytest.raises(UserError, match="this model has none"):
        lora.check_targets(tiny_model("llama", 32), Lora(target_parameters=OF_EXPERTS))
    with pytest.raises(ValueError, match="without lora_dropout"):
        Lora(target_parameters=OF_EXPERTS, lora_dropout=0.1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_train_the_same_when_activations_are_recomputed(tmp_path, architecture):
    seen, calls = [], []
    for recomputed in (False, True):
        (tmp_path / str(recomputed)).mkdir()
        net = adapted(architecture, "all-linear")
        decoder_layers(net)[0].mlp.register_forward_pre_hook(lambda module, inputs: calls.append(module))
        _, figures = trained(
            tmp_path / str(recomputed), DOCUMENTS, lambda net=net: net, gradient_checkpointing=recomputed
        )
        seen.append((figures, weights(net)))
    asked = 2  # forwards before the first step, of each net: whether documents meet
    assert len(calls) == asked + 6 + asked + 2 * 6
    assert seen[0][0] == seen[1][0]
    assert not changed(seen[0][1], seen[1][1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_full_fine_tuning_changes_every_weight(tmp_path, architecture):
    net = tiny_model(architecture, 32)
    before = weights(net)
    trained(tmp_path, DOCUMENTS, lambda: net)
    assert changed(before, weights(net)) == before.keys()


def named(net: nn.Module, part: str) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in net.named_parameters() if part in name}


def made(**settings: Any) -> PeftModel:
    return lora.add_adapters(tiny_model("llama", 32), Lora(r=4, lora_alpha=6.0, **settings))


def test_patterns_and_layers_say_where_adapters_are_and_how_large():
    net = made(
        rank_pattern={"q_proj": 2},
        alpha_pattern={"q_proj": 5.0},
        layers_to_transform=(1,),
        exclude_modules=("up_proj",),
    )
    ranks = {name: parameter.shape[0] for name, parameter in named(net, "lora_A").items()}
    assert all(".layers.1." in name and "up_proj" not in name for name in ranks) and len(ranks) == 6
    assert {rank for name, rank in ranks.items() if "q_proj" in name} == {2}
    assert {rank for name, rank in ranks.items() if "q_proj" not in name} == {4}
    scaling = {
        name: module.scaling["default"]
        for name, module in net.named_modules()
        if isinstance(getattr(module, "scaling", None), dict)
    }
    assert {value for name, value in scaling.items() if "q_proj" in name} == {2.5} and 1.5 in scaling.values()


def test_modules_to_save_learn_whole_and_travel_with_the_adapter(tmp_path):
    net = made(modules_to_save=("lm_head",))
    learnt = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert any("modules_to_save" in name and "lm_head" in name for name in learnt)
    with torch.no_grad():
        next(iter(named(net, "modules_to_save").values())).add_(0.5)
    expected = logits(net)
    lora.save_adapter(net, tmp_path, tmp_path, Lora())
    again = PeftModel.from_pretrained(tiny_model("llama", 32), tmp_path)
    assert torch.equal(logits(again), expected)
    torch.testing.assert_close(logits(net.merge_and_unload()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "orthogonal"])
def test_a_beginning_of_another_kind_changes_no_output(kind):
    torch.testing.assert_close(
        logits(made(init_lora_weights=kind)), logits(tiny_model("llama", 32)), rtol=0, atol=2e-5
    )


def test_b_learns_faster_where_it_is_asked_to(tmp_path):
    """Catches a ratio that reaches no group: after one step of AdamW each weight has moved by its rate."""
    from pipeline.train.optimizer import parameter_groups

    net = made(loraplus_lr_ratio=8.0)
    groups = parameter_groups(net, Optimizer(learning_rate=1e-3))
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert {rates[id(parameter)] for parameter in named(net, "lora_B").values()} == {8e-3}
    assert {rates[id(parameter)] for parameter in named(net, "lora_A").values()} == {1e-3}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"rank_pattern": {"q_prj": 2}},
            "rank_pattern: 'q_prj' matches no linear module\ndid you mean 'q_proj'",
        ),
        ({"modules_to_save": ("head",)}, "modules_to_save: 'head' matches no module\ndid you mean 'lm_head'"),
        ({"exclude_modules": ("lm_had",)}, "exclude_modules: 'lm_had' matches no module"),
        ({"layers_to_transform": (0, 2)}, "layers_to_transform: 2 is no layer\nexpected: 0 to 1"),
    ],
)
def test_a_name_that_reaches_nothing_is_refused(settings, said):
    with pytest.raises(UserError) as told:
        lora.check_targets(tiny_model("llama", 32), Lora(**settings))
    assert said in str(told.value)


def test_a_tied_head_is_not_trained_apart_from_its_embedding():
    with pytest.raises(UserError, match="lm_head is one weight for input and output"):
        lora.check_targets(tiny_model("gpt2", 32), Lora(modules_to_save=("lm_head",)))
