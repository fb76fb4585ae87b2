"""Catches half a checkpoint taken for a whole one, a damaged one believed, and pruning that leaves none to resume."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from pipeline.run.errors import UserError
from pipeline.train import checkpoint
from pipeline.train.engine import Runtime

ALONE = Runtime(rank=0, world_size=1, device=torch.device("cpu"), zero_stage=None)


def save(directory, step, keep=2, **progress):
    tensors = [("weight", torch.full((4, 4), float(step))), ("bias", torch.arange(4.0))]
    return checkpoint.save(directory, step, tensors, progress, keep, ALONE)


def steps(directory):
    return [int(path.name.removeprefix("step-")) for path in checkpoint.published(directory)]


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-2])


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """What tests/faults/interrupted_saves.py found, by scenario."""
    directory = tmp_path_factory.mktemp("interrupted") / "checkpoints"
    command = [sys.executable, "-m", "tests.faults.interrupted_saves", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("scenario", ["new step", "same step again", "random moments"])
def test_a_killed_save_leaves_only_checkpoints_that_verify(interrupted, scenario):
    found = interrupted[scenario]
    assert sum(case["killed"] for case in found) >= 10
    for moment, case in enumerate(found):
        assert case["damages"] == [], f"killed at moment {moment}"


def test_a_killed_save_leaves_the_newest_older_one_until_the_new_one_is_there(interrupted):
    for case in interrupted["new step"]:
        assert case["steps"] in ([1, 2], [1, 2, 3], [2, 3])
    assert interrupted["new step"][0]["steps"] == [1, 2]
    assert interrupted["new step"][-1]["steps"] == [2, 3]
    for case in interrupted["same step again"]:
        assert case["steps"] in ([1, 2], [1])


def test_saves_killed_at_any_moment_leave_the_last_two(interrupted):
    for case in interrupted["random moments"]:
        first, last = case["steps"][0], case["steps"][-1]
        assert case["steps"] == list(range(first, last + 1))
        assert last - first in (1, 2)  # the oldest goes after the new one has come
    assert len({case["steps"][-1] for case in interrupted["random moments"]}) > 1


def test_the_save_after_a_killed_one_clears_what_it_left(interrupted):
    for case in interrupted["new step"] + interrupted["same step again"] + interrupted["random moments"]:
        assert case["after"] == [f"step-{case['steps'][-1]:08d}", "step-00010000"]


@pytest.mark.parametrize("name", ["tensors-00000.safetensors", checkpoint.MANIFEST])
@pytest.mark.parametrize("place", ["first byte", "middle", "last byte", "truncated", "gone"])
def test_damage_to_the_newest_falls_back_to_the_older_one_and_says_so(tmp_path, name, place):
    save(tmp_path, 10)
    path = save(tmp_path, 20, seen=20) / name
    size = path.stat().st_size
    if place == "truncated":
        truncate(path)
    elif place == "gone":
        path.unlink()
    else:
        flip(path, {"first byte": 0, "middle": size // 2, "last byte": size - 2}[place])
    found, damages = checkpoint.newest(tmp_path, ALONE)
    assert checkpoint.Reader(found).step == 10
    if name == checkpoint.MANIFEST and place == "gone":
        assert damages == []  # it was never complete
    else:
        assert len(damages) == 1 and str(path) in damages[0]


def test_every_bit_of_a_manifest_counts(tmp_path):
    path = save(tmp_path, 10, seen=10) / checkpoint.MANIFEST
    whole = path.read_bytes()
    for at in range(len(whole)):
        flip(path, at)
        if whole[at : at + 1].strip() and path.read_bytes()[at : at + 1].strip():
            assert checkpoint.damage(path.parent), f"byte {at}"
        path.write_bytes(whole)
    assert checkpoint.damage(path.parent) is None


def test_where_none_verifies_it_is_the_users_to_decide(tmp_path):
    for step in (10, 20):
        truncate(save(tmp_path, step) / "tensors-00000.safetensors")
    with pytest.raises(UserError, match="no checkpoint in .* verifies") as told:
        checkpoint.newest(tmp_path, ALONE)
    assert "way out" in str(told.value)


def test_where_there_is_none_there_is_nothing_to_resume(tmp_path):
    assert checkpoint.newest(tmp_path, ALONE) == (None, [])
    assert checkpoint.newest(tmp_path / "not there", ALONE) == (None, [])


@pytest.mark.parametrize(("keep", "kept"), [(1, [4]), (2, [3, 4]), (9, [1, 2, 3, 4])])
def test_the_newest_are_kept(tmp_path, keep, kept):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep)
    assert steps(tmp_path) == kept


def test_after_a_fall_back_the_new_one_is_kept_and_the_abandoned_ones_go(tmp_path):
    save(tmp_path, 10)
    truncate(save(tmp_path, 20) / "tensors-00000.safetensors")
    assert checkpoint.newest(tmp_path, ALONE)[0].name == "step-00000010"
    save(tmp_path, 15, keep=1)
    assert steps(tmp_path) == [15]
    assert checkpoint.newest(tmp_path, ALONE)[0].name == "step-00000015"


def test_a_step_that_is_written_again_holds_the_new_bytes(tmp_path):
    truncate(save(tmp_path, 10) / "tensors-00000.safetensors")
    checkpoint.save(tmp_path, 10, [("weight", torch.ones(2))], {}, 2, ALONE)
    found, damages = checkpoint.newest(tmp_path, ALONE)
    assert damages == []
    assert torch.equal(checkpoint.Reader(found)("weight"), torch.ones(2))


def test_what_is_saved_is_read_back(tmp_path):
    reader = checkpoint.Reader(save(tmp_path, 10, samples=640))
    assert (reader.step, reader.progress) == (10, {"samples": 640})
    assert torch.equal(reader("weight"), torch.full((4, 4), 10.0))
    assert torch.equal(reader("bias"), torch.arange(4.0))
    with pytest.raises(UserError, match="holds no 'other'"):
        reader("other")


def test_a_copy_elsewhere_verifies(tmp_path):
    copied = shutil.copytree(save(tmp_path / "here", 10), tmp_path / "there" / "step-00000010")
    assert checkpoint.damage(copied) is None
