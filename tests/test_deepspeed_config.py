"""Catches a user's own DeepSpeed config that is ignored, that overrules the recipe, or that keeps an `auto`."""

import json

import pytest
import torch

from pipeline.run.config import Run
from pipeline.run.errors import UserError
from pipeline.run.launch import read_launch
from pipeline.run.plan import Batches
from pipeline.train.engine import Runtime
from pipeline.train.engine.runtime import zero_settings
from pipeline.train.engine.zero import deepspeed_config
from tests.helpers import toy_training

OWN = {
    "zero_optimization": {"stage": 3, "reduce_bucket_size": 1000, "contiguous_gradients": "auto"},
    "bf16": {"enabled": "auto"},
    "train_batch_size": "auto",
    "wall_clock_breakdown": True,
}


def launch_file(directory, own):
    (directory / "own.json").write_text(json.dumps(own))
    path = directory / "launch.yaml"
    named = f"deepspeed_config:\n  deepspeed_config_file: {directory / 'own.json'}\n"
    path.write_text(f"distributed_type: DEEPSPEED\nnum_processes: 2\n{named}")
    return path


def generated(monkeypatch, path):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")  # what accelerate says beside any file
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(path))
    training = toy_training()
    runtime = Runtime(0, 2, torch.device("cpu"), **zero_settings())
    return deepspeed_config(training, training, Batches(4, 2), runtime)


def test_what_the_recipe_does_not_decide_is_the_users(monkeypatch, tmp_path):
    launch_file(tmp_path, OWN)
    config = generated(monkeypatch, tmp_path / "own.json")
    assert config["zero_optimization"] == {
        "stage": 3,
        "reduce_bucket_size": 1000,
        "overlap_comm": False,
        "reduce_scatter": True,
    }
    assert config["wall_clock_breakdown"] is True
    assert config["train_batch_size"] == 16 and config["bf16"] == {"enabled": False}
    assert "auto" not in json.dumps(config)


def test_its_stage_is_read_before_anything_starts(tmp_path):
    launch = read_launch(Run(output_dir=tmp_path, launch=launch_file(tmp_path, OWN)))
    assert (launch.zero_stage, launch.num_processes) == (3, 2)


@pytest.mark.parametrize("key", ["optimizer", "scheduler", "fp16"])
def test_what_the_recipe_decides_is_refused(tmp_path, key):
    path = launch_file(tmp_path, OWN | {key: {}})
    with pytest.raises(UserError, match=f"sets {key}, which the recipe decides"):
        read_launch(Run(output_dir=tmp_path, launch=path))
