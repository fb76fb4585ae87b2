"""Catches a model that packed rows would train wrongly, and one that fails only after its weights were made."""

import pytest

from pipeline.lm.attention import packs
from pipeline.lm.config import Model
from pipeline.lm.model import build_config
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


def test_layers_that_no_mask_keeps_apart_are_not_packed():
    jamba = config_of("jamba", mamba_d_state=4, intermediate_size=32, num_experts=2, **TINY)
    assert not packs("auto", jamba) and not packs(False, jamba)
    with pytest.raises(
        UserError, match="jamba has linear_attention layers: .*\nway out: packing: auto, one document"
    ):
        packs(True, jamba)


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


def test_a_row_longer_than_the_positions_is_refused():
    with pytest.raises(UserError, match="sequence_length 17 is longer than the model's 16 positions"):
        config_of("llama", positions=17, max_position_embeddings=16, **TINY)
