"""Catches a checkpoint that the next step tears, one that is begun before the last is written, and a full disk that
hangs the other processes, loses the last good checkpoint or goes unsaid, and a request for one that is not heard."""

import errno
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.run.errors import UserError
from pipeline.run.files import digest_of
from pipeline.run.launch import Launch
from pipeline.run.memory import Size, moment_bytes, snapshot
from pipeline.train import checkpoint
from pipeline.train.fit import fit
from pipeline.train.loop import Trainer, steps
from pipeline.train.optimizer import parameter_groups
from tests.faults.test_checkpoint import ALONE
from tests.helpers import Toy, launch, toy_training
from tests.test_drawing import toy_context


class Gate:
    """`write_tensors`, which waits until it is let."""

    def __init__(self, monkeypatch):
        self.open, self.begun, self.write = threading.Event(), [], checkpoint.write_tensors
        monkeypatch.setattr(checkpoint, "write_tensors", self)

    def __call__(self, path, tensors):
        self.begun.append(path.parent.name)
        assert self.open.wait(60)
        return self.write(path, tensors)


def read(directory, step):
    reader = checkpoint.Reader(directory / f"step-{step:08d}")
    return reader("weight")


def test_a_checkpoint_holds_the_state_at_its_step_whatever_training_does_next(tmp_path, monkeypatch):
    gate, weight = Gate(monkeypatch), torch.ones(64, 64)
    with checkpoint.Writer(tmp_path, 2, ALONE) as writer:
        writer.begin(1, [("weight", weight)], {})
        weight.mul_(2)  # the next step, before a byte is written
        assert checkpoint.published(tmp_path) == []
        gate.open.set()
        writer.finish()
    assert torch.equal(read(tmp_path, 1), torch.ones(64, 64))


def test_a_slow_disk_slows_training_rather_than_filling_memory(tmp_path, monkeypatch):
    gate = Gate(monkeypatch)
    with checkpoint.Writer(tmp_path, 2, ALONE) as writer:
        writer.begin(1, [("weight", torch.ones(2))], {})
        second = threading.Thread(target=writer.begin, args=(2, [("weight", torch.zeros(2))], {}))
        second.start()
        second.join(0.3)
        assert second.is_alive() and gate.begun == [".step-00000001"]
        gate.open.set()
        second.join(60)
        writer.finish()
    assert gate.begun == [".step-00000001", ".step-00000002"]
    assert [path.name for path in checkpoint.published(tmp_path)] == ["step-00000001", "step-00000002"]


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, [("weight", torch.ones(2))], {}, 2, ALONE)

    def full(path, tensors):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as within, checkpoint.Writer(tmp_path, 2, ALONE) as writer:
        within.setattr(checkpoint, "write_tensors", full)
        writer.begin(2, [("weight", torch.ones(2))], {})
        writer._writing.finished.wait(60)
        assert writer.failed
        with pytest.raises(UserError) as told:
            writer.finish()
        writer.finish()  # nothing is under way any more
    assert str(told.value).splitlines() == [
        "the checkpoint of step 2 was not written: No space left on device on process 0",
        f"the last one that is whole: {tmp_path / 'step-00000001'}",
        f"way out: make room or mend {tmp_path}; the same command resumes there",
    ]
    found, damages = checkpoint.newest(tmp_path, ALONE)
    assert found.name == "step-00000001" and damages == []
    checkpoint.save(tmp_path, 3, [("weight", torch.ones(2))], {}, 2, ALONE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


def test_a_file_that_the_kernel_refuses_is_told(tmp_path):
    """A limit on the size of files, as a quota is."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
        with pytest.raises(
            UserError, match="step 1 was not written: File too large on process 0\n.*: none\n"
        ):
            checkpoint.save(tmp_path, 1, [("weight", torch.ones(1 << 16))], {}, 2, ALONE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    shared = tmp_path_factory.mktemp("failing")
    return launch("cpu_ddp", "tests.faults.failing_writer", str(shared), seconds=100)


def test_one_processs_full_disk_stops_all_with_the_same_words(two_processes):
    said = {each["said"] for each in two_processes}
    assert len(two_processes) == 2 and len(said) == 1
    assert "step 2 was not written: No space left on device on process 1" in said.pop()


def test_after_a_full_disk_the_next_checkpoint_is_whole_and_nothing_is_left_of_the_broken_one(two_processes):
    for each in two_processes:
        assert each["after"] == ["step-00000001"]
        assert each["published"] == each["left"] == ["step-00000001", "step-00000003"]


def test_a_share_is_a_safetensors_file_with_its_sum(tmp_path):
    tensors = {
        "a": torch.randn(3, 5),
        "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 4),
        "ä/b": torch.arange(7.0),
    }
    path = tmp_path / "a.safetensors"
    digest = checkpoint.write_tensors(path, tensors)
    assert digest == digest_of(path)
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_files_larger_than_a_chunk_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "CHUNK", 1000)
    whole = torch.randn(1001)
    assert checkpoint.write_tensors(tmp_path / "a", {"a": whole}) == digest_of(tmp_path / "a")
    assert torch.equal(load_file(tmp_path / "a")["a"], whole)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_the_plan_knows_what_a_copy_takes(ema):
    trainer = Trainer(Toy(toy_training(ema_decay=ema)), ALONE)
    with closing(steps(trainer)) as running:
        next(running)
        copied = checkpoint._copied(trainer.tensors(), ALONE)
    net = trainer.engines["model"].module
    count = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    moments = moment_bytes(parameter_groups(net, trainer.training))
    planned = snapshot(Size(count, count, moments, 0, 0), trainer.training, Launch(Path(), 1, None, {}))
    assert planned == sum(tensor.nbytes for tensor in copied.values())


class Asking(Toy):
    """A toy in whose third step somebody asks for a checkpoint."""

    place: Path

    def loss(self, turn, nets, batch, clock):
        if clock.step == 2:
            (self.place / "save").touch()
        return super().loss(turn, nets, batch, clock)


def steps_saved(directory):
    return [int(path.name.removeprefix("step-")) for path in checkpoint.published(directory)]


def test_a_file_asks_for_a_checkpoint_after_the_step_that_follows(tmp_path):
    recipe = Asking(toy_training())
    recipe.place = tmp_path
    fit(recipe, toy_context(tmp_path, save_steps=100, save_total_limit=9), ALONE)
    assert steps_saved(tmp_path / "checkpoints") == [4, 6]  # and the last step's
    assert not (tmp_path / "save").exists()


def test_minutes_ask_for_checkpoints_and_an_ordinary_run_has_the_steps_alone(tmp_path):
    for name, given, expected in (
        ("minutes", {"save_steps": 100, "save_minutes": 1e-9}, [1, 2, 3, 4, 5, 6]),
        ("steps", {"save_steps": 4, "save_minutes": 9}, [4, 6]),
    ):
        (tmp_path / name).mkdir()
        context = toy_context(tmp_path / name, save_total_limit=9, **given)
        fit(Toy(toy_training()), context, ALONE)
        assert steps_saved(tmp_path / name / "checkpoints") == expected
        assert context.made["checkpoint_seconds"] > 0
