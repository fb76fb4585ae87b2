"""Catches a doctor that says all is well where something is missing, or that shows a token."""

import os
import subprocess
import sys

import pytest

from pipeline.run import doctor
from tests.helpers import ROOT


def asked(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "doctor"]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


def test_one_screen_says_what_would_be_chosen_and_shows_no_token():
    done = asked(HF_TOKEN="hf_secretsecret")
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    for name in ("packages", "processor", "GPU", "precision", "launch file", "compiler", "disk", "Hub"):
        assert any(line.startswith(f"{name} ") for line in lines), name
    assert "bf16: auto is " in done.stdout and "launch/zero2.yaml" in done.stdout
    assert "a token is stored" in done.stdout and "secret" not in done.stdout


def test_a_missing_compiler_is_named_with_the_way_out():
    done = asked(CXX="no-such-compiler")
    assert done.returncode == 2
    assert "no-such-compiler is not there" in done.stdout and "way out: apt-get install g++" in done.stdout


def test_a_missing_package_is_said_without_importing_any(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "peft" else "1.0")
    (finding,) = doctor.examine()
    assert finding.missing and finding.text == "missing: peft" and finding.way_out == "pip install peft"


@pytest.mark.parametrize(("installed", "said"), [("2.13.0", False), ("2.10.0", True)])
def test_a_version_that_is_not_the_tested_one_is_said(monkeypatch, tmp_path, installed, said):
    (tmp_path / "constraints.txt").write_text("torch==2.13.0\n")
    monkeypatch.setattr(doctor, "LAUNCH", tmp_path)
    monkeypatch.setattr(doctor, "_version", lambda name: installed)
    texts = "\n".join(finding.text for finding in doctor._packages())
    assert (f"torch {installed}, tested 2.13.0" in texts) is said
