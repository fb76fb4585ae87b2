"""Catches a precision that is not the faster one, that a resumed run does not keep, or that processes disagree on."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.run import machine, resolve
from pipeline.run.files import sealed
from pipeline.run.machine import Precision
from pipeline.run.stage import open_recipe
from tests.helpers import ROOT, free_port

QUICKSTART = ROOT / "recipes" / "llm" / "quickstart.yaml"
SHOW = (
    "import json; from pipeline.run.machine import *; p = precision(); print(json.dumps([p.bf16, p.reason]))"
)


def chosen_in_a_process(**environment: str) -> list:
    clean = {key: value for key, value in os.environ.items() if key != machine.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=ROOT,
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture
def choosing(monkeypatch):
    """Make the machine choose bf16 or fp32; asking it counts."""

    def choose(bf16: bool) -> list[int]:
        asked = []
        monkeypatch.setattr(
            resolve, "precision", lambda: asked.append(1) or Precision(bf16, "as the test says")
        )
        return asked

    return choose


@pytest.mark.skipif(
    "CUDA_VISIBLE_DEVICES" in os.environ and os.environ["CUDA_VISIBLE_DEVICES"] != "", reason="a GPU"
)
@pytest.mark.parametrize("cap", ["AVX2", "AVX512_CORE"])
def test_a_cpu_whose_instructions_have_no_bf16_computes_in_fp32(cap):
    bf16, reason = chosen_in_a_process(ONEDNN_MAX_CPU_ISA=cap, CUDA_VISIBLE_DEVICES="")
    assert not bf16 and "times the speed of fp32" in reason


def test_the_choice_is_the_measured_ratio(monkeypatch):
    monkeypatch.setenv(machine.CAP, "ALL")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for ratio, bf16 in ((0.5, False), (4.2, True)):
        monkeypatch.setattr(machine, "bf16_over_fp32", lambda ratio=ratio: ratio)
        found = machine._chosen()
        assert found.bf16 is bf16 and f"{ratio} times" in found.reason


@pytest.mark.parametrize(("capability", "bf16"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_is_asked_for_its_compute_capability(monkeypatch, capability, bf16):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    assert machine._chosen().bf16 is bf16


def test_a_process_takes_what_its_parent_chose():
    for bf16 in (True, False):
        told = json.dumps({"bf16": bf16, "reason": "the parent says so"})
        assert chosen_in_a_process(**{machine.VARIABLE: told}) == [bf16, "the parent says so"]


def test_ranks_agree_where_their_own_timings_do_not():
    """Rank 1's CPU is capped, so that alone it would choose fp32, or both would."""
    from torch.distributed import TCPStore

    port = free_port()
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    shared = {"TORCHELASTIC_USE_AGENT_STORE": "True", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(chosen_in_a_process, RANK="0", **shared)
        second = pool.submit(chosen_in_a_process, RANK="1", ONEDNN_MAX_CPU_ISA="AVX2", **shared)
    assert first.result() == second.result()
    del store


def test_auto_is_the_machines_choice_and_a_written_value_wins(tmp_path, choosing):
    for bf16 in (True, False):
        choosing(bf16)
        output = f"run.output_dir={tmp_path}"
        config, stages = open_recipe(QUICKSTART, [output, "finetune.bf16=true"])
        assert (config.pretrain.bf16, config.finetune.bf16) == (bf16, True)
        assert {stage.name: stage for stage in stages}["pretrain"].identity["pretrain"]["bf16"] is bf16


@pytest.mark.parametrize("place", ["pretrain/artifact.json", "checkpoints/pretrain/identity.json"])
def test_what_was_begun_keeps_its_precision(tmp_path, choosing, place):
    """A run that moves to another kind of machine goes on in the precision it has; the machine is not even asked."""
    record = tmp_path / place
    record.parent.mkdir(parents=True)
    identity = {"pretrain": {"bf16": False}, "finetune": {"bf16": True}}
    filled = dict.fromkeys(("stage", "inputs", "files", "metrics", "config", "made"), {})
    record.write_text(
        json.dumps(sealed({**filled, "identity": identity}) if "artifact" in place else {"identity": identity})
    )
    asked = choosing(True)
    config, _ = open_recipe(QUICKSTART, [f"run.output_dir={tmp_path}"])
    assert (config.pretrain.bf16, config.finetune.bf16) == (False, True) and not asked


def test_the_plan_says_which_precision_and_why(tmp_path):
    command = [sys.executable, "-m", "pipeline", "plan", str(QUICKSTART), f"run.output_dir={tmp_path}"]
    told = {machine.VARIABLE: json.dumps({"bf16": False, "reason": "a slow one"})}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | told, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.count("  precision: fp32; a slow one\n") == 2, done.stderr[-2000:]
