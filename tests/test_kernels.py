"""Catches an `auto` that a run meets undecided, one that overrules the user, and compiling that cannot pay."""

import pytest

from pipeline.lm import machine
from pipeline.lm.machine import LONG_RUN
from pipeline.run.stage import open_recipe
from tests.helpers import ROOT

QUICKSTART = ROOT / "recipes" / "llm" / "quickstart.yaml"


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """`opened(*overrides, gpu=False, compiler=True)`: the quickstart as it is opened on such a machine."""

    def open_on(*overrides: str, gpu: bool = False, compiler: bool = True):
        monkeypatch.setattr(machine, "_on_gpu", lambda: gpu)
        monkeypatch.setattr(machine.shutil, "which", lambda name: name if compiler else None)
        precision = [f"{section}.bf16=true" for section in ("pretrain", "finetune")]
        return open_recipe(QUICKSTART, [f"run.output_dir={tmp_path}", *precision, *overrides])[0]

    return open_on


def test_what_a_user_writes_stays(opened):
    config = opened("model.attention=sdpa", "pretrain.torch_compile=false", "finetune.torch_compile=true")
    assert config.model.attention == "sdpa"
    assert (config.pretrain.torch_compile, config.finetune.torch_compile) == (False, True)


@pytest.mark.parametrize(
    ("override", "compiler", "compiled"),
    [
        (f"pretrain.max_steps={LONG_RUN}", True, True),
        (f"pretrain.max_steps={LONG_RUN}", False, False),
        (f"pretrain.max_steps={LONG_RUN - 1}", True, False),
        ("run.launch=launch/zero3.yaml", True, False),
        ("pretrain.gradient_checkpointing=true", True, False),
    ],
)
def test_layers_are_compiled_where_it_can_be_done_and_pays(opened, override, compiler, compiled):
    assert opened(override, compiler=compiler).pretrain.torch_compile is compiled


def test_the_plan_says_what_was_decided(opened):
    assert machine.kernels("eager", opened().pretrain) == "eager attention, layers compiled"
    assert machine.kernels("sdpa", opened(compiler=False).pretrain) == "sdpa attention, layers not compiled"
