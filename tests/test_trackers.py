"""Catches a tracker that is opened and never started, or one that is missed only after the model was built."""

import importlib.util
import os
import subprocess
import sys

import pytest

from pipeline.run.config import Run
from pipeline.run.errors import UserError
from pipeline.run.launch import check_launch, check_trackers
from tests.helpers import ROOT, toy_training

OPEN_AND_LOG = """
import sys
from pathlib import Path
from pipeline.train.engine import open_trackers, start_runtime
start_runtime(threads=1)
[tracker] = open_trackers(("tensorboard",), "train", Path(sys.argv[1]), {"train": {"max_steps": 3}})
for step in (1, 2, 3):
    tracker.log({"loss": 1 / step, "eval_loss": 2 / step}, step=step)
tracker.finish()
"""


def test_tensorboard_reads_back_what_was_logged(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    command = [sys.executable, "-c", OPEN_AND_LOG, str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    events = event_accumulator.EventAccumulator(str(tmp_path / "train"))
    events.Reload()
    for name, scale in (("loss", 1), ("eval_loss", 2)):
        read = [(event.step, event.value) for event in events.Scalars(name)]
        assert read == [(step, pytest.approx(scale / step, rel=1e-6)) for step in (1, 2, 3)]


def test_a_tracker_that_is_not_installed_is_refused_with_the_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trackio" else name)
    check_trackers(Run(output_dir=tmp_path, trackers=("tensorboard",)))
    with pytest.raises(UserError, match="trackio is not installed\nway out: pip install trackio"):
        check_launch(Run(output_dir=tmp_path, trackers=("tensorboard", "trackio")), toy_training(), (1, 2, 3))
