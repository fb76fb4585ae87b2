"""Catches results that depend on how samples are cut: into micro-batches, over processes, into evaluation batches."""

import pytest
import torch

from pipeline.run.plan import Batches
from pipeline.train.engine import Runtime
from pipeline.train.feed import micro_batches
from tests.helpers import Toy, toy_training

LAUNCHERS = ("one", "ddp", "zero1", "zero2", "zero3")
STEP_SAMPLES = 16


def micro_batches_by_number(processes, accumulation, step):
    recipe = Toy(toy_training())
    batches = Batches(STEP_SAMPLES // processes // accumulation, accumulation)
    found = {}
    for rank in range(processes):
        runtime = Runtime(rank, processes, torch.device("cpu"), None)
        mine = micro_batches(recipe, recipe.data(), batches, runtime, step, STEP_SAMPLES)
        assert len(mine) == accumulation
        found |= dict(mine)
    return [found[number]["tokens"] for number in range(processes * accumulation)]


@pytest.mark.parametrize(
    ("processes", "accumulation"), [(1, 4), (2, 2), (4, 1), (2, 4), (8, 1), (1, 16), (16, 1)]
)
def test_a_step_has_the_same_samples_in_the_same_order(processes, accumulation):
    for step in (0, 5):
        whole = micro_batches_by_number(1, 1, step)[0]
        assert torch.equal(torch.cat(micro_batches_by_number(processes, accumulation, step)), whole)


def test_steps_share_no_sample_within_an_epoch():
    data = Toy(toy_training()).data()
    expected = [torch.from_numpy(data.item(index)["tokens"]) for index in range(3 * STEP_SAMPLES)]
    seen = torch.cat([micro_batches_by_number(2, 2, step)[part] for step in range(3) for part in range(4)])
    assert torch.equal(seen, torch.stack(expected))


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_weights_after_six_steps_are_those_of_one_process(report_of, launcher, accumulation):
    for optim in ("adamw", "muon"):
        expected = report_of("one")[f"parity {optim} 1"]["weights"]
        found = report_of(launcher)[f"parity {optim} {accumulation}"]["weights"]
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name] == pytest.approx(values, abs=5e-7)  # measured at worst 1.2e-7 near 1


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_dropout_is_a_function_of_the_micro_batch_and_not_of_the_process(report_of, launcher):
    assert report_of(launcher)["noise"] == pytest.approx(report_of("one")["noise"], rel=1e-6)
    without = [row["loss"] for row in report_of("one")["parity adamw 4"]["rows"]]
    assert report_of("one")["noise"] != pytest.approx(without, rel=1e-3)


@pytest.mark.parametrize("size", ["1", "3", "16"])
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_held_out_sums_are_the_same_in_batches_of_any_size(report_of, launcher, size):
    total, count = report_of("one")["evaluation"]["16"]
    found = report_of(launcher)["evaluation"][size]
    assert found[1] == count
    assert found[0] == pytest.approx(total, rel=2e-7)  # measured at worst 4.9e-8
