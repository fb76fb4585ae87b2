"""Catches a model that packed rows would train wrongly, and one that fails only after its weights were made."""

import pytest
from transformers import AutoConfig

from pipeline.lm.attention import packs
from pipeline.lm.config import Model
from pipeline.lm.model import build_config, positions_of, reconfigured
from pipeline.run.errors import UserError

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
MISTRAL = TINY | {"intermediate_size": 32}


def config_of(architecture: str, attention: str = "sdpa", positions: int = 16, **fields):
    model = Model(architecture=architecture, attention=attention, config=fields)
    return build_config(model, 64, {}, positions)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "mistral"])
def test_models_of_a_plain_causal_mask_are_accepted(architecture, attention):
    fields = {"llama": TINY, "qwen3": TINY, "gpt2": {}, "mistral": MISTRAL}[architecture]
    assert config_of(architecture, attention, **fields).model_type == architecture


def test_layers_that_nothing_keeps_apart_are_not_packed():
    config = config_of("recurrent_gemma", intermediate_size=32, **TINY)
    assert not packs("auto", config) and not packs(False, config)
    with pytest.raises(
        UserError, match="gemma has linear_attention layers: .*\nway out: packing: auto, one document"
    ):
        packs(True, config)


def test_a_model_that_takes_no_positions_is_not_packed():
    rwkv = config_of("rwkv", "eager", hidden_size=32, num_hidden_layers=2, context_length=16)
    assert not packs("auto", rwkv)
    with pytest.raises(UserError, match="rwkv takes no position_ids: documents in one row would meet"):
        packs(True, rwkv)


def test_a_field_may_have_the_name_that_the_hubs_files_give_it():
    """Catches `num_experts` of Qwen3-MoE refused as unknown: its config knows it by another name."""
    fields = {"moe_intermediate_size": 8, "intermediate_size": 32, "num_experts_per_tok": 2, **TINY}
    assert config_of("qwen3_moe", num_experts=4, **fields).num_experts == 4
    with pytest.raises(
        UserError, match="model.config.num_expert is no field of qwen3_moe's config\ndid you mean"
    ):
        config_of("qwen3_moe", num_expert=4, **fields)


def test_a_backend_that_the_architecture_lacks_is_refused_with_the_other():
    with pytest.raises(
        UserError, match="model.attention: sdpa with gptj: .*\nway out: model.attention: auto, or eager"
    ):
        config_of("gptj", n_embd=32, n_layer=1, n_head=2, rotary_dim=8)


YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16}


def test_a_pretrained_model_takes_fields_that_its_weights_allow():
    """Catches settings that are read and then forgotten, which a longer context would lose in silence."""
    config = config_of("llama", **TINY)
    longer = reconfigured(config, {"max_position_embeddings": 64, "rope_parameters": YARN})
    assert positions_of(longer) == 64 and longer.rope_parameters["factor"] == 4.0
    assert longer.vocab_size == config.vocab_size and reconfigured(config, {}) is config
    with pytest.raises(
        UserError, match="hidden_size would change the shape of .*weight, and the weights are pretrained"
    ):
        reconfigured(config, {"hidden_size": 64})
    with pytest.raises(UserError, match="model.config.rope_parameter is no field of llama's config"):
        reconfigured(config, {"rope_parameter": YARN})


def test_stretched_positions_say_from_what_and_reach_the_last():
    long = {"max_position_embeddings": 64, **TINY}
    assert (
        config_of("llama", positions=64, rope_parameters=YARN, **long).rope_parameters["rope_type"] == "yarn"
    )
    with pytest.raises(UserError, match="yarn with factor 4.0 does not say which length it stretches"):
        without = {name: value for name, value in YARN.items() if name != "original_max_position_embeddings"}
        config_of("llama", positions=64, rope_parameters=without, **long)
    with pytest.raises(UserError, match="stretches 16 positions by 2.0 to 32, .* is 64\nway out: factor: 4"):
        config_of("llama", positions=64, rope_parameters=YARN | {"factor": 2.0}, **long)


def test_a_model_that_is_no_decoder_is_refused_in_words():
    with pytest.raises(UserError, match="t5 is no decoder that transformers builds"):
        packs("auto", AutoConfig.for_model("t5"))


def test_a_row_longer_than_the_positions_is_refused():
    with pytest.raises(UserError, match="sequence_length 17 is longer than the model's 16 positions"):
        config_of("llama", positions=17, max_position_embeddings=16, **TINY)
