"""Catches a launch file that launches something else, hosts that do not meet, a Slurm job that is not queued again.

And what has to be compiled, where there is no compiler or where a build was killed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.run.config import Run
from pipeline.run.launch import check_launch, read_launch
from tests.exhaustive import exhaustive
from tests.helpers import ROOT, free_port, launch, refusal, toy_training

SRUN = """#!/usr/bin/env bash
# Every node's command on this machine, beside the others; the worst exit code.
shift
for node in 0 1; do SLURM_NODEID=$node "$@" & pids+=($!); done
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit "$code"
"""
SCONTROL = """#!/usr/bin/env bash
case "$1" in
    show) echo 127.0.0.1 ;;
    requeue) echo "$2" > "$REQUEUED" ;;
esac
"""


@pytest.fixture(scope="module")
def expected() -> list[float]:
    """The toy's losses in one plain process."""
    return launch(None, "tests.launch_probe")["losses"]


@pytest.mark.parametrize(
    ("file", "processes", "launcher"),
    [
        exhaustive("one", None, "one process, 1 x cpu"),
        ("cpu_one", None, "one process, 1 x cpu"),
        ("zero3_offload", 2, "ZeRO-3, 2 x cpu"),
    ],
)
def test_a_launch_file_launches_what_it_is_named_for(expected, file, processes, launcher):
    seen = launch(file, "tests.launch_probe", num_processes=processes)
    assert seen["launcher"] == launcher
    assert seen["offload"] == ("cpu" if file == "zero3_offload" else "none")
    assert seen["losses"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("launcher", "name"), [("ddp", "DDP"), ("zero2", "ZeRO-2"), ("zero3", "ZeRO-3")])
def test_the_launch_files_of_two_processes_launch_what_they_are_named_for(report_of, launcher, name):
    """cpu_ddp, cpu_zero2 and cpu_zero3; their losses are judged in tests/parity/test_engines.py."""
    seen = report_of(launcher)["runtime"]
    assert (seen["launcher"], seen["offload_param"]) == (f"{name}, 2 x cpu", "none")


def test_deepspeed_builds_nothing_and_waits_for_no_build_that_was_killed(monkeypatch, tmp_path):
    """A process killed while it compiled one of DeepSpeed's operators left a lock, and every later run hung on it."""
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    lock.touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert launch("cpu_zero2", "tests.launch_probe", seconds=60)["launcher"] == "ZeRO-2, 2 x cpu"
    assert list(tmp_path.rglob("*")) == [lock.parent, lock]


def test_two_hosts_meet(expected, tmp_path):
    shared = [
        "--config_file",
        "launch/multi_host.yaml",
        "--num_processes",
        "2",
        "--main_process_port",
        str(free_port()),
    ]
    hosts = [
        subprocess.Popen(
            [sys.executable, "-m", "accelerate.commands.launch", *shared, "--machine_rank", str(rank)]
            + ["-m", "tests.launch_probe", str(tmp_path / "out.json")],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]
    for host in hosts:
        _, errors = host.communicate(timeout=120)
        assert host.returncode == 0, errors.decode()[-2000:]
    seen = json.loads((tmp_path / "out.json").read_text())
    assert seen["launcher"] == "ZeRO-2, 2 x cpu"
    assert seen["losses"] == pytest.approx(expected, rel=1e-6)


def slurm(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess:
    """launch/slurm.sh on a cluster of two nodes that are both this machine."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    cluster = {
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "REQUEUED": str(tmp_path / "requeued"),
        "RUN_DIR": str(tmp_path / "run"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = ["bash", "launch/slurm.sh", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | cluster, capture_output=True, text=True, timeout=120
    )


def test_slurm_starts_a_process_on_each_node(expected, tmp_path):
    done = slurm(tmp_path, "tests.launch_probe", str(tmp_path / "out.json"))
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads((tmp_path / "out.json").read_text())
    assert seen["launcher"] == "ZeRO-2, 2 x cpu"
    assert seen["losses"] == pytest.approx(expected, rel=1e-6)
    assert not (tmp_path / "requeued").exists()


@pytest.mark.parametrize(("code", "again"), [("3", True), ("2", False)])
def test_slurm_queues_a_job_again_that_was_asked_to_stop_and_no_other(tmp_path, code, again):
    (tmp_path / "run" / "logs").mkdir(parents=True)
    (tmp_path / "run" / "logs" / "pretrain.error").write_text(f"{code}\nwhy\n")
    done = slurm(tmp_path, "tests.no_such_program")
    assert done.returncode != 0
    assert (tmp_path / "requeued").exists() == again


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_may_name_any_launch_file(path, monkeypatch, tmp_path):
    """A bare NO is false to YAML, and such a file was refused; a name is looked for in the checkout, too."""
    monkeypatch.chdir(tmp_path)
    found = read_launch(Run(output_dir=tmp_path, launch=f"launch/{path.name}"))
    assert found.path == path
    assert found.num_processes == 1 or path.stem not in ("one", "cpu_one")
    assert (found.zero_stage is None) == ("zero" not in path.stem and path.stem != "multi_host")


@pytest.mark.parametrize(
    ("settings", "refused"),
    [({"torch_compile": True}, "torch_compile: true"), ({"optim": "muon"}, "optim: muon"), ({}, None)],
)
def test_what_needs_a_compiler_is_refused_without_one(monkeypatch, tmp_path, settings, refused):
    """It was a traceback of torch's, after the data and the weights."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    run, training = Run(output_dir=tmp_path), toy_training(**settings)
    said = refusal(check_launch, run, training, (1, 2, 3), training)
    message = (
        f"{refused} needs a C++ compiler, and no-such-compiler is not there\n"
        "way out: install it, name another in CXX, or do without the setting"
    )
    assert said == (message if refused else None)
