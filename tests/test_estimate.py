"""Catches a plan whose memory is not what training takes, or that forgets what a launcher shards."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.lm.config import LanguageModelConfig, Lora
from pipeline.lm.machine import fitted
from pipeline.lm.model import build_config
from pipeline.lm.recipe import size_of
from pipeline.run.config import load
from pipeline.run.launch import Launch
from pipeline.run.memory import Memory, memory
from recipes.gan import train
from tests.benchmarks.workload import LENGTH, VOCABULARY, small_llama, training
from tests.helpers import ROOT, finished, gan_config
from tests.memory import lora_of

ONE = Launch(Path("one.yaml"), 1, None, {})
FEW, MANY = 2, 6  # rows whose peaks are compared: what does not grow with them falls out
NATIVE = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # bf16
MEASURED = [("sdpa", "bf16"), ("eager", "bf16"), ("sdpa", "fp32"), ("flash", "bf16")]


def needed(
    rows: int = 8, attention: str = "sdpa", launch: Launch = ONE, lora: Lora | None = None, **changes
) -> Memory:
    settings = training(
        train_batch_size=rows * launch.num_processes, per_device_train_batch_size=rows, **changes
    )
    config = build_config(small_llama(), VOCABULARY, {}, LENGTH)
    return memory(size_of(config, settings, LENGTH, lora, launch, attention), settings, launch)


@pytest.fixture(scope="module")
def peaks() -> dict[str, int]:
    """`rows,attention,precision[,base]` -> the peak of a process that trains so."""
    asked = [(attention, precision) for attention, precision in MEASURED if precision == "fp32" or NATIVE]
    cases = [f"{rows},{attention},{precision}" for attention, precision in asked for rows in (FEW, MANY)]
    cases += [f"{FEW},sdpa,fp32,{base}" for base in ("plain", "nf4", "int8")]
    exact = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = finished([sys.executable, "-m", "tests.memory", *cases], 240, **exact)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def measurable(attention: str, precision: str) -> Any:
    """A case; of bf16 where the CPU has instructions for it."""
    # Elsewhere torch's library multiplies by way of copies of its own: 14 % more on an Ice Lake (torch 2.13).
    skipped = pytest.mark.skipif(precision == "bf16" and not NATIVE, reason="this CPU has no bf16")
    return pytest.param(attention, precision, marks=skipped, id=f"{attention}-{precision}")


@pytest.mark.parametrize(("attention", "precision"), [measurable(*case) for case in MEASURED])
def test_activations_grow_with_rows_as_measured(peaks, attention, precision):
    grown = peaks[f"{MANY},{attention},{precision}"] - peaks[f"{FEW},{attention},{precision}"]
    few, many = (needed(rows, attention, bf16=precision == "bf16").activations for rows in (FEW, MANY))
    assert grown == pytest.approx(many - few, rel=0.01)  # measured at worst 0.08 %


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("base", ["nf4", "int8"])
def test_adapters_on_a_base_in_codes_need_what_is_planned(peaks, base):
    planned = {name: needed(FEW, lora=lora_of(name), bf16=False).total for name in ("plain", base)}
    interpreter = peaks[f"{FEW},sdpa,fp32,plain"] - planned["plain"]
    # Measured 0.7 % off and 0.5 %; a base planned as it was before is 12 % off.
    assert peaks[f"{FEW},sdpa,fp32,{base}"] - interpreter == pytest.approx(planned[base], rel=0.02)


@pytest.mark.parametrize("bf16", [True, False])
def test_experts_are_planned_without_their_weights(bf16):
    """Catches a plan that ends in a traceback: without memory, torch multiplies experts' matrices in bf16 alone."""
    model = small_llama()
    fields = model.config | {"num_local_experts": 4, "num_experts_per_tok": 2}
    model = model.model_copy(update={"architecture": "mixtral", "config": fields})
    config = build_config(model, VOCABULARY, {}, LENGTH)
    settings = training(train_batch_size=4, per_device_train_batch_size=4, bf16=bf16)
    size = size_of(config, settings, LENGTH, None, ONE, "sdpa")
    dense = needed(4, bf16=bf16).activations
    assert dense < size.activations < 4 * dense


def test_sharding_divides_what_each_stage_shards():
    whole = needed(launch=Launch(ONE.path, 1, 1, {}))
    for stage, shared in (
        (1, {"optimizer"}),
        (2, {"optimizer", "gradients"}),
        (3, {"optimizer", "gradients", "weights"}),
    ):
        found = needed(launch=Launch(ONE.path, 4, stage, {}))
        for name, value in vars(whole).items():
            assert vars(found)[name] == value / (4 if name in shared else 1)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_recomputing_activations_and_adapters_need_less():
    assert needed(gradient_checkpointing=True).activations < 0.5 * needed().activations
    adapters, full = needed(lora=Lora(r=4, lora_alpha=8)), needed()
    assert adapters.optimizer < 0.1 * full.optimizer and adapters.gradients < 0.1 * full.gradients
    assert adapters.activations > 0.5 * full.activations


def test_muon_keeps_one_moment_of_hidden_matrices():
    assert needed(optim="muon", max_grad_norm=0).optimizer < 0.75 * needed().optimizer


def test_a_recipe_of_two_nets_is_planned_too():
    config = gan_config()
    size = train.estimate(config)
    assert size.parameters == size.trained and size.moments == 8 * size.parameters
    assert size.activations > 0


def test_the_larger_recipes_are_planned_without_their_weights():
    for name, billions in (("gpt2_124m", 0.124), ("llama_1b", 1.26)):
        config = fitted(load(LanguageModelConfig, ROOT / "recipes" / "llm" / f"{name}.yaml", []))
        settings = build_config(
            config.model, config.tokenizer.vocabulary_size, {}, config.pretrain.sequence_length
        )
        size = size_of(
            settings,
            config.pretrain,
            config.pretrain.sequence_length,
            None,
            Launch(ONE.path, 8, 2, {}),
            "sdpa",
        )
        assert size.parameters == pytest.approx(billions * 1e9, rel=0.1)
