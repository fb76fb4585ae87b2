"""Catches a run that is stopped at an awkward moment, or moved to another number of processes, and goes on as another:
a part of `python -m tests.invariance`."""

import pytest

from tests.exhaustive import exhaustive
from tests.invariance import moments
from tests.invariance.__main__ import CHAINS, LAUNCHERS, TOLERANCE, elastic, exact

# Three processes: of two, sums are the same in whatever order they are taken.
PICKED = [("DDP x 3", ["pretrain, fp32"]), ("ZeRO-2 x 2", ["DPO, bf16"])]
EVERY = [exhaustive(launcher, list(moments.WORKS)) for launcher in LAUNCHERS]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    found = tmp_path_factory.mktemp("moments")
    moments.prepare(found)
    return found


@pytest.mark.parametrize(("launcher", "works"), [*PICKED, *EVERY])
def test_a_run_that_was_stopped_at_any_moment_is_the_one_that_was_not(shared, launcher, works):
    found = exact(shared, launcher, works)
    assert list(found) == works
    for row in found.values():
        tried = [name for name in moments.MOMENTS if launcher == "one process" or name not in moments.FAILING]
        assert row == dict.fromkeys(tried, "")


@pytest.mark.parametrize("chain", ["ZeRO 1 -> 3 -> DDP", exhaustive("2 -> 1 -> 3 processes")])
def test_a_run_on_several_launchers_sees_the_same_samples_and_losses(shared, tmp_path, chain):
    worst, same = elastic(shared, CHAINS[chain], tmp_path)
    assert same
    assert worst < TOLERANCE
