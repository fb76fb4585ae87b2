"""Catches a forked stage that is not what a fresh process would be: its ends, its signals, what it leaves behind."""

import json
import os
import signal
import threading
import time
from contextlib import closing

import pytest

from pipeline.run.warm import Warm, helps

pytestmark = pytest.mark.skipif(not helps(), reason="stages are forked on Linux without a GPU alone")

PROGRAMS = {
    "says": """
import json, os, sys, threading
import torch
print("to stderr", file=sys.stderr)
open(sys.argv[1], "w").write(json.dumps({
    "argv": sys.argv[1:], "main": __name__, "cuda": torch.cuda.is_initialized(), "seed": torch.initial_seed(),
    "left": getattr(torch, "left", None), "threads": threading.active_count(), "process": os.getpid(),
    "imported": "pipeline.run.stage" in sys.modules,
}))
torch.left = "behind"
torch.manual_seed(7)
torch.set_num_threads(1)
(torch.ones(300, 300) @ torch.ones(300, 300)).sum()
""",
    "exits": "import sys\nsys.exit(3)",
    "fails": "raise ValueError('it broke')",
    "exits_in_words": "import sys\nsys.exit('in words')",
    "is_killed": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "sleeps": """
import pathlib, sys, time
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
""",
}


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    for name, text in PROGRAMS.items():
        (folder / f"{name}.py").write_text(text)
    path = os.pathsep.join([str(folder), os.getcwd()])
    with closing(Warm(os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""})) as found:
        yield found


def test_a_stage_is_a_process_of_its_own_and_the_next_sees_nothing_of_it(warm, tmp_path):
    seen = []
    for name in ("a", "b"):
        assert warm.run("says", [str(tmp_path / name), "x=1"], tmp_path / "log") == (0, False)
        assert (tmp_path / "log").read_text() == "to stderr\n"
        seen.append(json.loads((tmp_path / name).read_text()))
    first, second = seen
    assert first["argv"] == [str(tmp_path / "a"), "x=1"] and first["main"] == "__main__"
    assert not first["imported"] and not first["cuda"] and first["threads"] == 1
    assert second["left"] is None and second["seed"] != 7
    assert len({first["process"], second["process"], os.getpid(), warm.process.pid}) == 4


@pytest.mark.parametrize(
    ("program", "code", "said"),
    [
        ("exits", 3, ""),
        ("fails", 1, "ValueError: it broke"),
        ("exits_in_words", 1, "in words"),
        ("is_killed", -signal.SIGKILL, ""),
    ],
)
def test_a_stage_ends_with_the_code_of_a_process(warm, program, code, said, tmp_path):
    assert warm.run(program, [], tmp_path / "log") == (code, False)
    assert said in (tmp_path / "log").read_text()


def test_a_request_to_stop_reaches_the_stage_and_leaves_what_forks(warm, tmp_path):
    started = tmp_path / "started"

    def stop():
        while not started.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(warm.process.pid, signal.SIGTERM)  # as a scheduler sends it to all

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=stop)
    thread.start()
    assert warm.run("sleeps", [str(started)], tmp_path / "log") == (-signal.SIGTERM, True)
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
    assert warm.run("exits", [], tmp_path / "log") == (3, False)


def test_it_ends_with_its_parent(tmp_path):
    warm = Warm(dict(os.environ))
    warm.close()
    assert warm.process.returncode == 0


def test_an_end_that_nobody_asked_for_is_said(tmp_path):
    warm = Warm(dict(os.environ))
    warm.process.kill()
    with pytest.raises((RuntimeError, BrokenPipeError)):
        warm.run("exits", [], tmp_path / "log")
    warm.process.wait()
    warm.replies.close()
    try:
        warm.orders.close()
    except BrokenPipeError:
        pass
