"""Catches a hang that nobody notices, a second request to stop that waits, and a bad step whose batch is not named."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from pipeline.run.errors import Interrupted
from pipeline.run.supervise import FAILURES, LOST, give_up, lost_peers
from pipeline.run.terminal import leave_word, report_error
from pipeline.train.engine import NonFinite
from pipeline.train.fit import fit
from tests.faults.test_checkpoint import ALONE
from tests.helpers import ROOT, Toy, toy_training
from tests.test_drawing import toy_context

WATCHED = """
import signal, sys, time
from pathlib import Path
from pipeline.train.watch import Watch
seconds, word = float(sys.argv[1]), Path(sys.argv[2])
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda *_: None)
def a_step_that_never_ends():
    with Watch(seconds, word, sys.stdout.write, lambda: "no checkpoint yet") as watch:
        watch.seen(7)
        print("begun", flush=True)
        time.sleep(60)
a_step_that_never_ends()
"""


def begun(seconds, word):
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, str(seconds), str(word)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "RANK"},
    )
    assert process.stdout.readline() == "begun\n"
    return process


def test_a_step_that_never_ends_is_told_with_its_stacks(tmp_path):
    process = begun(0.5, tmp_path / "train.error")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert (
        (tmp_path / "train.error").read_text().startswith("1\nno step for 0.5 s after step 7\nthe stacks of")
    )
    assert "a_step_that_never_ends" in err and out == "no step for 0.5 s after step 7\n"


def test_a_run_that_was_stopped_by_hand_goes_on(tmp_path):
    """Ctrl-Z and fg: the clock has gone on, the process has not."""
    process = begun(6.5, tmp_path / "train.error")
    process.send_signal(signal.SIGSTOP)
    time.sleep(7)
    process.send_signal(signal.SIGCONT)
    time.sleep(2)
    assert process.poll() is None and not (tmp_path / "train.error").exists()
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("numbers", "apart", "ends"),
    [
        ([signal.SIGTERM], 0.0, False),
        ([signal.SIGTERM] * 2, 0.3, False),  # one request that comes by two ways
        ([signal.SIGTERM] * 2, 2.5, True),
        ([signal.SIGUSR1] * 2, 2.5, False),  # a notice
    ],
)
def test_the_second_request_to_stop_is_heard_at_once(tmp_path, numbers, apart, ends):
    process = begun(30, tmp_path / "train.error")
    for number in numbers:
        process.send_signal(number)
        time.sleep(apart)
    try:
        assert process.wait(timeout=3) == 3 and ends
        assert (
            tmp_path / "train.error"
        ).read_text() == "3\nended at once, asked a second time; no checkpoint yet"
    except subprocess.TimeoutExpired:
        assert not ends
        process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("poison", "said"), [("loss", "the sums are"), ("gradient", "the gradient norm is nan")]
)
def test_a_step_that_is_not_finite_names_its_samples_and_keeps_them(tmp_path, poison, said):
    training = toy_training(per_device_train_batch_size=4)
    with pytest.raises(NonFinite) as told:
        fit(Toy(training, poison=poison, poisoned=16 + 9), toy_context(tmp_path, save_steps=1), ALONE)
    first, samples, last, way_out = str(told.value).splitlines()
    assert first.startswith(f"step 2: model: {said}")
    whole = "16 to 31, the whole step" if poison == "gradient" else "24 to 27"
    assert samples == f"its samples: {whole}, kept in {tmp_path}/train.step-00000002.*"
    assert re.search("the last checkpoint is .*step-00000001; the same command", last)
    assert "skip_nonfinite_steps" in way_out
    kept = load_file(tmp_path / "train.step-00000002.rank0.safetensors")
    numbers = range(4) if poison == "gradient" else [2]
    assert kept.keys() == {f"{number}/{key}" for number in numbers for key in ("tokens", "weight", "poison")}
    assert kept["2/poison"].tolist() == [False, True, False, False]
    # What was kept is the batch itself.
    data = Toy(training).data()
    assert torch.equal(
        kept["2/tokens"], torch.stack([torch.from_numpy(data.item(i)["tokens"]) for i in range(24, 28)])
    )


def test_steps_that_are_left_out_are_told_kept_and_remembered_by_checkpoints(tmp_path):
    """The one after those allowed ends the run, also where a resume lies between them."""
    training = toy_training(max_steps=4, skip_nonfinite_steps=1)
    toy = partial(Toy, training, poison="gradient", poisoned=16 + 9)
    whole, apart = toy_context(tmp_path / "whole", save_steps=1), tmp_path / "apart"
    expected = fit(toy(), whole, ALONE).weights("model")
    assert whole.made["skipped_steps"] == 1
    assert "warning: left out step 2: model: the gradient norm is nan" in whole.terminal.getvalue()
    assert (tmp_path / "whole" / "train.step-00000002.rank0.safetensors").is_file()
    with pytest.raises(Interrupted):
        fit(toy(), toy_context(apart, save_steps=1, until_step=3), ALONE)
    found = fit(toy(), toy_context(apart, save_steps=1), ALONE).weights("model")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    again = toy_context(tmp_path / "again", save_steps=1, until_step=3)
    with pytest.raises(Interrupted):
        fit(toy(), again, ALONE)
    with pytest.raises(NonFinite, match="step 4: model"):
        fit(toy(poisoned=3 * 16), toy_context(tmp_path / "again", save_steps=1), ALONE)


def test_the_first_process_that_speaks_is_the_one_that_is_heard(tmp_path):
    word = tmp_path / "train.error"
    assert leave_word(word, 1, "the cause")
    assert not leave_word(word, 1, "a consequence")
    assert word.read_text() == "1\nthe cause"


def test_what_gloo_says_of_a_lost_neighbour_is_one_sentence(tmp_path, monkeypatch, capsys):
    """The words that torch 2.13 was heard to say when a process beside was killed, failed or stopped."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr("pipeline.run.supervise.peers", lambda: [])
    monkeypatch.setattr("pipeline.run.terminal.CAUSE_SECONDS", 0.1)
    error = RuntimeError(
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer"
    )
    assert report_error(error, tmp_path, "train") == 1
    said = (tmp_path / "train.error").read_text()
    assert (
        said.startswith("1\nprocess 1 of this host is gone: ") and "Traceback" not in capsys.readouterr().err
    )
    assert "Connection closed by peer" in (tmp_path / "train.log").read_text()  # for whoever wants to know more
    assert lost_peers(ValueError("Connection closed by peer")) is None
    assert not LOST.search("NCCL error: unhandled cuda error, out of memory")
    assert not LOST.search("shape '[2, 3]' is invalid for input of size 5")


def test_a_full_disk_is_the_users_to_mend(tmp_path, capsys):
    error = OSError(28, "No space left on device", "/runs/a/logs/train.metrics.jsonl")
    assert report_error(error, tmp_path, "train") == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: No space left on device: /runs/a/logs/train.metrics.jsonl",
        "way out: make room or mend it; the same command goes on from what is whole",
    ]
    assert json.loads((tmp_path / "train.error").read_text().splitlines()[0]) == 2


def test_the_third_failure_of_one_kind_from_one_checkpoint_is_the_last(tmp_path, capsys):
    """Catches a job that a scheduler starts again for ever, and one given up though it gets further each time."""
    (tmp_path / "step-00000010").mkdir()
    assert [give_up(tmp_path, "no memory", 1) for _ in range(2)] == [1, 1]
    assert give_up(tmp_path, "killed by SIGKILL", 1) == 1  # another kind: counted anew
    assert [give_up(tmp_path, "no memory", code) for code in (1, 3, 1)] == [1, 3, 1]  # a request to stop is no failure
    (tmp_path / "step-00000020").mkdir()
    assert [give_up(tmp_path, "no memory", 1) for _ in range(2)] == [1, 1]
    assert capsys.readouterr().err == ""
    assert give_up(tmp_path, "no memory", 1) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "3 attempts from step-00000020 ended in the same way" in said
    assert not (tmp_path / FAILURES).exists() and give_up(tmp_path, "no memory", 1) == 1
    assert give_up(tmp_path / "none", "no memory", 1) == 1
