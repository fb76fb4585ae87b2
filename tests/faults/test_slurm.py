"""Catches `launch/slurm.sh` that a real Slurm does not run over its nodes, that loses steps at the time limit, or that
does not come back from the queue."""

import json
import shutil
import time

import pytest

from tests.exhaustive import exhaustive
from tests.faults import slurm
from tests.faults.matrix import WORKS, differences, prepared, reference
from tests.faults.test_hosts import arguments
from tests.helpers import ROOT
from tests.whole.command import ENVIRONMENT

WORK = WORKS["GAN"]
# Slurm looks about twice a minute, so its notice comes 40 to 100 s after the start; twelve such steps take longer.
LIMITS = ("--time=2", "--signal=USR1@20")
SLOWLY = {"step": 0, "rank": 0, "harm": "linger", "seconds": 9}
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


@pytest.mark.parametrize("nodes", [exhaustive(2)])
def test_a_job_at_its_time_limit_saves_is_queued_again_and_ends_with_the_same_weights(tmp_path, nodes):
    if why := slurm.missing():
        pytest.skip(why)
    output = shutil.copytree(prepared(tmp_path, WORK), tmp_path / "job")
    told = {
        "RUN_DIR": str(output),
        "SLURM_GPUS_ON_NODE": "1",  # what Slurm says of a node's GPUs: one process each
        "DS_ACCELERATOR": "cpu",
        "FAULT": json.dumps(SLOWLY),
        "PYTHONPATH": f"{ROOT / 'tests' / 'faults' / 'injected'}:{ROOT}",
        **ENVIRONMENT,
    }
    with slurm.running(tmp_path / "slurm", nodes) as cluster:
        submit = ["sbatch", "--parsable", f"--nodes={nodes}", "--gpus-per-node=0", "--cpus-per-task=1", *LIMITS,
                  f"--output={tmp_path}/job.log", "launch/slurm.sh", "recipes.gan", *arguments(output)]  # fmt: skip
        job = cluster.ask(*submit, **told).strip()
        patience = time.monotonic() + 600
        while (state := cluster.state(job))["JobState"] not in ENDED:
            assert time.monotonic() < patience, f"{state}\n{(tmp_path / 'job.log').read_text()[-3000:]}"
            time.sleep(1)
    assert state["JobState"] == "COMPLETED", (tmp_path / "job.log").read_text()[-3000:]
    assert int(state["Restarts"]) >= 1
    assert differences(output, reference(tmp_path, WORK, "ZeRO-2"), WORK.stage) == []
