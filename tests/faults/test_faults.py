"""Catches a fault after which a run hangs, leaves processes or files, says nothing, or ends with other weights: a few
of `python -m tests.faults`, on real launchers, from outside."""

import pytest

from tests.exhaustive import exhaustive
from tests.faults.matrix import FAULTS, LAUNCHERS, WORKS, suffer

NAMED = {fault.name: fault for fault in FAULTS}
PICKED = (
    ("SIGKILL of one process that has not written its share", "DDP", "GAN"),
    ("SIGKILL of the command", "DDP", "GAN"),
    ("SIGHUP", "one process", "GAN"),
    ("SIGINT twice, in a step that does not end", "DDP", "GAN"),
    ("SIGSTOP of one process", "DDP", "GAN"),
    ("an exception in one process", "DDP", "GAN"),
    ("no space for a share", "DDP", "GAN"),
    ("the clock set back", "one process", "GAN"),
)
EVERY = [
    (fault.name, launcher, work)
    for work in WORKS
    for launcher in LAUNCHERS
    for fault in FAULTS
    if (fault.name, launcher, work) not in PICKED and not (work == "GAN" and launcher == "ZeRO-3")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.mark.parametrize(("fault", "launcher", "work"), [*PICKED, *(exhaustive(*case) for case in EVERY)])
def test_a_harmed_run_says_so_leaves_nothing_and_ends_with_the_same_weights(folder, fault, launcher, work):
    outcome = suffer(folder, NAMED[fault], WORKS[work], launcher)
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert outcome.wrong == []
