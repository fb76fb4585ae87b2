"""Catches `launch/kubernetes/jobset.yaml` whose parts disagree, or whose pods do not meet, save and go on together."""

import os
import shlex
import shutil
import signal
import subprocess
import time

import pytest
import yaml

from tests.exhaustive import exhaustive
from tests.faults import hosts
from tests.faults.matrix import WORKS, differences, prepared, reference
from tests.faults.test_hosts import SLOWLY, arguments
from tests.helpers import ROOT
from tests.whole.command import ENVIRONMENT

SET = yaml.safe_load((ROOT / "launch" / "kubernetes" / "jobset.yaml").read_text())
JOB = SET["spec"]["replicatedJobs"][0]
SPEC = JOB["template"]["spec"]
POD = SPEC["template"]["spec"]
(TRAIN,) = POD["containers"]
GIVEN = {each["name"]: each["value"] for each in TRAIN["env"]}
WORK = WORKS["GAN"]


def option(name):
    words = shlex.split(TRAIN["args"][0])
    return words[words.index(f"--{name}") + 1]


def test_the_parts_of_the_set_agree():
    count = SPEC["completions"]
    assert count == SPEC["parallelism"] == int(option("num_machines"))
    assert int(option("num_processes")) == count * TRAIN["resources"]["limits"]["nvidia.com/gpu"]
    # JobSet's names: set, job, number of the job, number of the pod; below the set's name.
    name = SET["metadata"]["name"]
    assert option("main_process_ip") == f"{name}-{JOB['name']}-0-0.{name}"
    assert option("machine_rank") == "$JOB_COMPLETION_INDEX" and SPEC["completionMode"] == "Indexed"
    assert int(GIVEN["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < POD["terminationGracePeriodSeconds"]
    (rule,) = SPEC["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": TRAIN["name"], "operator": "In", "values": [2]}
    assert {mount["name"] for mount in TRAIN["volumeMounts"]} == {each["name"] for each in POD["volumes"]}


def started(place, known, output, module, *more):
    """The container's command in each pod, as the kubelet starts it, with one process each and without GPUs."""
    script = TRAIN["args"][0].replace("--num_processes 16", f"--num_processes {len(place)}")
    running = []
    for host in place:
        name = f"{SET['metadata']['name']}-{JOB['name']}-0-{host.number}"
        command = shlex.join([*TRAIN["command"], script, "bash", module, *more])
        given = GIVEN | {"RUN_DIR": str(output), "JOB_COMPLETION_INDEX": str(host.number)}
        given |= {"DS_ACCELERATOR": "cpu", **ENVIRONMENT, **SLOWLY}
        log = open(output.with_name(f"{output.name}.pod{host.number}.log"), "a")
        running.append(
            subprocess.Popen(
                hosts.named(host, name, known, f"exec {command}"), cwd=ROOT, env=os.environ | given,
                stdout=log, stderr=log, start_new_session=True,
            )
        )  # fmt: skip
        log.close()
    return running


@pytest.mark.parametrize("count", [exhaustive(2)])
def test_pods_that_have_to_go_save_and_the_set_starts_again_from_there(tmp_path, count):
    if why := hosts.missing():
        pytest.skip(why)
    output, known = shutil.copytree(prepared(tmp_path, WORK), tmp_path / "set"), tmp_path / "hosts"
    recipe = [word for word in arguments(output) if not word.startswith("run.output_dir=")]
    with hosts.cluster(count) as place:
        names = [option("main_process_ip").replace("-0-0.", f"-0-{host.number}.") for host in place]
        known.write_text(
            "127.0.0.1 localhost\n"
            + "".join(
                f"{host.address} {name} {name.partition('.')[0]}\n"
                for host, name in zip(place, names, strict=True)
            )
        )
        running = started(place, known, output, "recipes.gan", *recipe)
        until = time.monotonic() + 60
        while not list(output.glob("checkpoints/train/step-00000004/manifest.json")):
            assert time.monotonic() < until, (tmp_path / "set.pod0.log").read_text()[-3000:]
            time.sleep(0.05)
        for each in running:  # as the kubelet asks: to the first process of the container
            _first_of_container(each).send_signal(signal.SIGTERM)
        codes = hosts.ended(running)
        assert 0 not in codes and 2 not in codes and None not in codes, codes
        assert (output / "logs" / "train.error").read_text().startswith("3\n")
        assert hosts.ended(started(place, known, output, "recipes.gan", *recipe)) == [0] * count
        # What is refused ends with 2, which fails the set.
        refused = started(place, known, output, "recipes.gan", *recipe, "train.no_such=1")
        assert hosts.ended(refused) == [2] * count
    assert differences(output, reference(tmp_path, WORK, "ZeRO-2"), WORK.stage) == []


def _first_of_container(process):
    import psutil

    return next(
        each
        for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        if each.name() == "bash"
    )
