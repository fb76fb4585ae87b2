"""Catches a process on a CPU that asks the kernel for cleared pages anew at every step."""

import os
import platform
import subprocess
import sys

import pytest

from tests.helpers import ROOT

PAGES_OF_TEN_STEPS = """
import resource
import torch
from pipeline.train.engine import start_runtime
start_runtime(threads=1)
torch.ones(1 << 24)  # 64 MiB, more than malloc keeps of itself
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_of_ten_steps(**environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PAGES_OF_TEN_STEPS],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.splitlines()[-1])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left as they are")
def test_memory_that_a_step_frees_is_there_for_the_next_unless_the_user_says_otherwise():
    assert pages_of_ten_steps() < 50_000  # of 4 KiB: 163,840 where all go back; 0 or, once anew, 16,384 seen
    assert pages_of_ten_steps(MALLOC_MMAP_THRESHOLD_="65536") > 150_000
