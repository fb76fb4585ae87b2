"""Catches a micro-batch that does not fit, leaves a GPU half empty, or is another one on resuming."""

import json

import pytest

from pipeline.run import microbatch
from pipeline.run.config import Training
from pipeline.run.launch import read_launch
from pipeline.run.memory import memory
from pipeline.run.microbatch import USED, record, with_micro_batch
from pipeline.run.plan import UNPLANNED, Batches
from pipeline.run.stage import open_recipe
from tests.helpers import ROOT

AUTO = [
    "run.launch=launch/cpu_one.yaml",
    "pretrain.per_device_train_batch_size=auto",
    "pretrain.train_batch_size=48",
]


@pytest.fixture
def quickstart(tmp_path):
    """The quickstart's config and its stage `pretrain`, 48 rows a step, its micro-batch left to the machine."""
    overrides = [*AUTO, f"run.output_dir={tmp_path / 'run'}"]
    config, stages = open_recipe(ROOT / "recipes" / "llm" / "quickstart.yaml", overrides)
    return config, next(stage for stage in stages if stage.name == "pretrain")


@pytest.fixture
def device(monkeypatch):
    """`device(room, most)`: one that has `room` bytes for a process."""

    def make(room: float, most: float = float("inf")) -> None:
        monkeypatch.setattr(microbatch, "_device", lambda launch: (room, most))

    return make


def needed(config, stage, samples: int) -> float:
    from pipeline.pretrain import estimate

    training = config.pretrain.model_copy(update={"per_device_train_batch_size": samples})
    config = config.model_copy(update={"pretrain": training})
    return memory(estimate(config), training, read_launch(config.run)).total


@pytest.mark.parametrize("fitting", [1, 12, 48])
def test_the_largest_divisor_that_fits_is_taken(quickstart, device, fitting):
    config, stage = quickstart
    device(needed(config, stage, fitting) / USED * 1.001)
    assert with_micro_batch(config, stage).pretrain.per_device_train_batch_size == fitting
    device(needed(config, stage, fitting) / USED * 0.999)
    smaller = max([size for size in range(1, fitting) if 48 % size == 0], default=1)
    assert with_micro_batch(config, stage).pretrain.per_device_train_batch_size == smaller


def test_what_a_cpu_computes_no_faster_is_not_made_larger(quickstart, device):
    config, stage = quickstart
    device(1e15, UNPLANNED)
    assert with_micro_batch(config, stage).pretrain.per_device_train_batch_size == 8


def test_a_number_that_is_written_stays(quickstart, device):
    config, stage = quickstart
    device(1.0)
    written = config.pretrain.model_copy(update={"per_device_train_batch_size": 16})
    config = config.model_copy(update={"pretrain": written})
    assert with_micro_batch(config, stage) is config


def test_each_process_fits_its_share_of_a_step(quickstart, device, monkeypatch):
    config, stage = quickstart
    monkeypatch.setenv("WORLD_SIZE", "4")
    device(1e15)
    assert with_micro_batch(config, stage).pretrain.per_device_train_batch_size == 12


def test_a_run_that_is_begun_keeps_its_micro_batch(quickstart, device, tmp_path, monkeypatch):
    config, stage = quickstart
    device(1e15)
    begun = with_micro_batch(config, stage, tmp_path)
    (tmp_path / "micro_batch.json").write_text(json.dumps(record(begun, stage)))
    device(1.0)
    assert (
        with_micro_batch(config, stage, tmp_path).pretrain.per_device_train_batch_size == 1
    )  # no step is saved yet
    (tmp_path / "step-00000010").mkdir()
    assert with_micro_batch(config, stage, tmp_path) == begun
    monkeypatch.setenv("WORLD_SIZE", "2")  # other processes sum other parts in any case
    assert with_micro_batch(config, stage, tmp_path).pretrain.per_device_train_batch_size == 1


def test_it_is_left_open_where_the_size_of_the_weights_is_not_known(quickstart, device, monkeypatch):
    config, stage = quickstart
    monkeypatch.setattr("pipeline.pretrain.estimate", lambda config: None)
    assert with_micro_batch(config, stage) is config


@pytest.mark.parametrize(
    ("total", "processes", "micro"), [(16, 1, 8), (12, 1, 6), (7, 1, 7), (11, 1, 1), (64, 4, 8)]
)
def test_unplanned_it_divides_and_is_small(total, processes, micro):
    training = Training(learning_rate=1e-3, max_steps=1, train_batch_size=total)
    assert Batches.derive(training, processes) == Batches(micro, total // processes // micro)
