"""Catches training over several hosts that differs from one host's, hangs when the network is cut, or cannot go on with
the hosts that are left."""

import json
import shutil
import time

import pytest

from tests.faults import hosts
from tests.faults.matrix import WORKS, differences, prepared, reference
from tests.helpers import ROOT

WORK = WORKS["GAN"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    why = hosts.missing()
    if why:
        pytest.skip(why)
    return tmp_path_factory.mktemp("hosts")


def arguments(output, *more):
    """The recipe and overrides of the work, without the launch file: the launcher is here."""
    command = WORK.command("stage", WORK.stage, output, "ZeRO-2", *more)
    return [
        word for word in command[command.index(WORK.stage) + 1 :] if not word.startswith("run.launch=")
    ] + [
        "run.launch=launch/multi_host.yaml",
        "run.threads=1",
    ]


SLOWLY = {
    "FAULT": json.dumps({"step": 0, "rank": 0, "harm": "linger"}),
    "PYTHONPATH": f"{ROOT / 'tests' / 'faults' / 'injected'}:{ROOT}",
}


def run(place, output, *more, limit=hosts.LIMIT_SECONDS):
    return hosts.ended(hosts.start(place, "recipes.gan", arguments(output, *more), output), limit)


def losses(output):
    lines = (output / "logs" / "train.metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["generator/loss"] for row in map(json.loads, lines) if "generator/loss" in row}


def test_two_hosts_train_what_two_processes_of_one_do(folder):
    output = shutil.copytree(prepared(folder, WORK), folder / "two")
    with hosts.cluster(2) as place:
        assert run(place, output) == [0, 0], (folder / "two.host0.log").read_text()[-3000:]
    assert differences(output, reference(folder, WORK, "ZeRO-2"), WORK.stage) == []


def test_a_cut_network_is_told_on_both_sides_and_the_hosts_that_are_left_go_on(folder):
    output = shutil.copytree(prepared(folder, WORK), folder / "cut")
    with hosts.cluster(3) as place:
        two = place[:2]
        running = hosts.start(two, "recipes.gan", arguments(output, "run.timeout=10"), output, **SLOWLY)
        until = time.monotonic() + 60
        while not list(output.glob("checkpoints/train/step-00000004/manifest.json")):
            assert time.monotonic() < until and all(each.poll() is None for each in running)
            time.sleep(0.02)
        two[1].unplug()
        codes = hosts.ended(running, 60)
        assert None not in codes and 0 not in codes
        assert "no step for 10 s" in (output / "logs" / "train.error").read_text()
        # On the one that is left, from the last checkpoint; what it learns is the same to rounding.
        assert run(place[:1], output) == [0], (folder / "cut.host0.log").read_text()[-3000:]
    whole = losses(reference(folder, WORK, "ZeRO-2"))
    assert losses(output) == pytest.approx(whole, rel=1e-5)
