"""Catches a model that trains otherwise on a CPU with fewer instructions: the caps of oneDNN and ATen stand for it."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT

TRAIN = """
import json, sys, tempfile
from pathlib import Path
from tests.tiny_language_model import random_documents, tiny_model, trained
with tempfile.TemporaryDirectory() as folder:
    documents = random_documents(*[5 + 3 * (i % 7) for i in range(40)])
    _, figures = trained(Path(folder), documents, lambda: tiny_model("llama", 32), bf16=sys.argv[1] == "bf16")
print(json.dumps(figures))
"""
CAPS = {
    "none": {},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "sse": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
}


def figures(cap: str, precision: str) -> list[list[float]]:
    """(loss, gradient norm) of each step."""
    clean = {key: value for key, value in os.environ.items() if key not in CAPS["avx2"]}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, precision],
        cwd=ROOT,
        env=clean | CAPS[cap] | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


# Measured at worst: 7.5e-7 in fp32 (the least instructions), 4.5e-4 in bf16.
@pytest.mark.parametrize(
    ("precision", "caps", "tolerance"), [("fp32", ("avx2", "sse"), 2e-6), ("bf16", ("avx2",), 2e-3)]
)
def test_losses_are_the_same_with_fewer_instructions(precision, caps, tolerance):
    full = figures("none", precision)
    for cap in caps:
        for (loss, _), (other, _) in zip(full, figures(cap, precision), strict=True):
            assert other == pytest.approx(loss, rel=tolerance)
