"""Catches a quantised base that is another matrix than its codes stand for, and a merge that is another model."""

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.data.shards import Shard
from pipeline.lm.config import Lora
from pipeline.lm.recipe import flops_per_token
from pipeline.lm.tuning import quantised
from pipeline.lm.tuning.lora import add_adapters
from pipeline.lm.tuning.quantised import (
    QuantisedLinear,
    check_quantised,
    dequantise,
    moved_by_merging,
    quantise,
    quantised_layers,
)
from pipeline.run.errors import UserError
from tests.tiny_language_model import random_documents, shard_of, tiny_model

pytestmark = pytest.mark.filterwarnings(  # peft 0.21 asks transformers 5.23 under old names
    "ignore:`(is_gradient_checkpointing|gradient_checkpointing_enable)` is deprecated:FutureWarning"
)
KINDS = [("nf4", True), ("nf4", False), ("int8", False)]
IDS = torch.arange(3, 35)[None]


def linear(rows: int = 96, columns: int = 160) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(columns, rows)


def adapted(kind: str, double: bool, scale: float = 0.1):
    """A tiny Llama on a quantised base, with adapters that change it."""
    lora = Lora(r=4, quantisation=kind, double_quantisation=double)
    net = add_adapters(quantise(tiny_model("llama", 32), lora), lora)
    torch.manual_seed(1)
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=scale)
    return net


@pytest.mark.parametrize("double", [True, False])
def test_nf4_is_what_bitsandbytes_stores(double):
    import bitsandbytes.functional as bits

    plain = linear(columns=128)
    codes, state = bits.quantize_4bit(plain.weight.detach(), compress_statistics=double, quant_type="nf4")
    layer = QuantisedLinear(plain, "nf4", double)
    assert torch.equal(layer.dequantised(torch.float32), bits.dequantize_4bit(codes, state))


def test_nf4_is_the_nearest_of_sixteen_values_of_a_block():
    """Against the table of arXiv:2305.14314, appendix E, by hand; rows of 160 values have blocks across their ends."""
    plain = linear()
    layer = QuantisedLinear(plain, "nf4", double=False)
    table = layer.scales[0]
    assert table[[0, 7, 15]].tolist() == [-1, 0, 1]
    blocks = plain.weight.detach().reshape(-1, 64)
    largest = blocks.abs().amax(1, keepdim=True)
    nearest = table[(blocks[..., None] / largest[..., None] - table).abs().argmin(-1)] * largest
    torch.testing.assert_close(
        layer.dequantised(torch.float32).reshape(-1, 64), nearest, rtol=1e-6, atol=1e-7
    )


def test_int8_is_within_half_a_step_of_each_row():
    plain = linear()
    layer = QuantisedLinear(plain, "int8", False)
    step = plain.weight.detach().abs().amax(1, keepdim=True) / 127
    assert ((layer.dequantised(torch.float32) - plain.weight).abs() <= step / 2 + 1e-9).all()


@pytest.mark.parametrize(("kind", "double"), KINDS)
def test_loss_and_gradients_are_those_of_the_matrices_that_the_codes_stand_for(kind, double):
    net, twin = adapted(kind, double), dequantise(adapted(kind, double))
    for one in (net, twin):
        one(input_ids=IDS, labels=IDS).loss.backward()
    assert list(quantised_layers(net)) and not list(quantised_layers(twin))
    gradients = [{n: p.grad for n, p in one.named_parameters() if p.requires_grad} for one in (net, twin)]
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == 28
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_the_head_the_embedding_and_what_is_trained_whole_stay():
    lora = Lora(quantisation="int8", modules_to_save=("down_proj",))
    net = quantise(tiny_model("llama", 32), lora)
    stored = {name.rsplit(".", 1)[-1] for name, _ in quantised_layers(net)}
    assert stored == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}


@pytest.mark.parametrize(("kind", "double"), KINDS)
def test_codes_and_scales_keep_their_precision_in_another(kind, double):
    layer = QuantisedLinear(linear(), kind, double)
    before = layer.dequantised(torch.float32)
    layer.bfloat16()
    assert torch.equal(layer.dequantised(torch.float32), before)
    assert layer(torch.ones(1, 160, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("kind", "double", "each"), [("nf4", True, 0.516), ("nf4", False, 0.5625), ("int8", False, 1.008)]
)
def test_bytes_a_weight_and_the_same_without_memory(kind, double, each):
    layer = QuantisedLinear(linear(1024, 512), kind, double)
    with torch.device("meta"):
        empty = QuantisedLinear(nn.Linear(512, 1024), kind, double)
    # The tables are shared in spirit but stored with each layer: 16 and 256 values.
    assert layer.bytes() / (1024 * 512) == pytest.approx(each, rel=0.01)
    assert empty.bytes() == layer.bytes()


@pytest.mark.parametrize("double", [True, False])
def test_transformers_stores_the_same_in_4_bits(tmp_path, double):
    """As the card says of an adapter's base. Its own products are not compared: bitsandbytes rounds them on a CPU."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    plain = tiny_model("llama", 32, hidden_size=64, intermediate_size=128)
    plain.save_pretrained(tmp_path)
    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=how, dtype=torch.float32, device_map="cpu"
    )
    import bitsandbytes.functional as bits

    layers = dict(quantised_layers(quantise(plain, Lora(quantisation="nf4", double_quantisation=double))))
    assert len(layers) == 14
    for name, layer in layers.items():
        weight = theirs.get_submodule(name).weight
        assert torch.equal(
            layer.dequantised(torch.float32), bits.dequantize_4bit(weight.data, weight.quant_state)
        )


def shard(tmp_path) -> Shard:
    return shard_of(tmp_path, random_documents(20, 30, 25))


@pytest.mark.parametrize(("kind", "double"), KINDS)
def test_the_merged_model_is_the_trained_one(tmp_path, kind, double):
    merged, moved = moved_by_merging(adapted(kind, double), shard(tmp_path))
    assert abs(moved["merge_kl"]) < 1e-9 and moved["merge_agreement"] > 0.99
    assert {type(module).__name__ for module in merged.modules() if isinstance(module, nn.Linear)} == {
        "Linear"
    }
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.float32}


def test_a_merge_that_is_another_model_is_refused(tmp_path, monkeypatch):
    def onto_the_base_before_it_was_quantised(net):
        return net.disable_adapter_layers() or dequantise(net)

    monkeypatch.setattr(quantised, "dequantise", onto_the_base_before_it_was_quantised)
    monkeypatch.setattr(quantised, "FARTHEST", 1e-6)
    net = adapted("nf4", True)
    net.merge_and_unload = lambda: net.get_base_model()
    with pytest.raises(UserError, match="nats a token from the trained one"):
        moved_by_merging(net, shard(tmp_path))


def test_a_merge_that_is_no_number_is_refused(tmp_path):
    net = adapted("int8", False)
    with torch.no_grad():
        next(p for name, p in net.named_parameters() if "lora_B" in name).fill_(torch.nan)
    with pytest.raises(UserError, match="nan nats a token"):
        moved_by_merging(net, shard(tmp_path))


def test_without_bitsandbytes_nf4_is_refused_and_int8_is_not(monkeypatch):
    monkeypatch.setattr(quantised.importlib.util, "find_spec", lambda name: None)
    net = tiny_model("llama", 32)
    with pytest.raises(UserError, match="finetune.lora.quantisation: nf4 needs bitsandbytes.*\n.*int8"):
        check_quantised(net, Lora(quantisation="nf4"), "finetune.lora")
    check_quantised(net, Lora(quantisation="int8"), "finetune.lora")


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_token_costs_what_it_does_without_codes(kind):
    plain, lora = tiny_model("llama", 32), Lora(quantisation=kind)
    expected = flops_per_token(plain, 32)
    assert flops_per_token(quantise(plain, lora), 32) == expected


def test_a_model_without_linear_layers_is_refused():
    with pytest.raises(UserError, match="gpt2 has no linear layer to store so"):
        check_quantised(tiny_model("gpt2", 32), Lora(quantisation="int8"), "finetune.lora")


def test_dora_on_codes_is_refused():
    with pytest.raises(ValueError, match="use_dora reads the weights' norms"):
        Lora(quantisation="nf4", use_dora=True)


def test_documents_are_probed_up_to_a_length(tmp_path, monkeypatch):
    monkeypatch.setattr(quantised, "PROBED_TOKENS", 8)
    seen: list[np.ndarray] = []
    plain = quantised._log_probabilities

    def watched(net, ids):
        seen.append(ids)
        return plain(net, ids)

    monkeypatch.setattr(quantised, "_log_probabilities", watched)
    moved_by_merging(adapted("int8", False), shard(tmp_path))
    assert [len(ids) for ids in seen] == [8] * 6
