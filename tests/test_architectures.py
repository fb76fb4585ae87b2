"""Catches an architecture that no longer trains, whose documents meet, or that plain transformers loads otherwise."""

import warnings

import pytest
from transformers.utils import logging

from tests.architectures import LEFT_OUT, NAMES, outcome_of

# One of each kind: full attention, learnt positions, windows on all and on some layers, blocks, sinks, capped scores,
# experts, latent attention, biases in place of positions, scans, convolutions, linear attention, no positions at all.
ALWAYS = {
    "llama",
    "gpt2",
    "mistral",
    "gemma3_text",
    "llama4_text",
    "gpt_oss",
    "gemma2",
    "qwen3_moe",
    "deepseek_v3",
}
ALWAYS |= {"bloom", "mamba", "lfm2", "qwen3_next", "rwkv", "falcon", "phimoe"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ALWAYS else pytest.mark.exhaustive)
        for name in NAMES
        if name not in LEFT_OUT
    ],
)
def test_it_trains_keeps_documents_apart_and_is_loaded_elsewhere(name):
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of transformers' own modules
        outcome = outcome_of(name)
    assert outcome.wrong is None, outcome
    assert outcome.parameters < 10_000_000


def test_what_is_left_out_exists_and_has_a_reason():
    assert set(LEFT_OUT) <= set(NAMES) and all(len(reason) > 10 for reason in LEFT_OUT.values())
    assert len(LEFT_OUT) <= len(NAMES) // 8
