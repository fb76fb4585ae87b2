"""Catches a GPU script that stops at its first failure, loses lines, or cannot run what it would run on a GPU."""

import json

import pytest
import torch

from tests.gpu.__main__ import checks, main
from tests.gpu.check import Check, Place, require

FINE = Check("fine", "says 1", lambda place: {"figure": 1})
WRONG = Check("wrong", "says 2", lambda place: require(False, "2 is not 1", {"figure": 2}))
BROKEN = Check("broken", "raises", lambda place: {"figure": 1 // 0})
ABSENT = Check("absent", "is skipped", lambda place: {}, needs=("no_such_package",))
without_a_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU")


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_check_has_a_line_whatever_the_others_do(capsys, tmp_path):
    assert main(["--rehearse", "--out", str(tmp_path)], [WRONG, BROKEN, ABSENT, FINE]) == 1
    machine, wrong, broken, absent, fine, done = printed = lines(capsys)
    assert machine["rehearsal"] and machine["commit"]
    assert (wrong["failed"], wrong["figure"]) == ("2 is not 1", 2)
    assert broken["failed"].startswith("ZeroDivisionError")
    assert absent == {"check": "absent", "skipped": "no_such_package not installed"}
    assert fine["figure"] == 1 and "failed" not in fine
    assert done["failed"] == 2
    assert [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()] == printed


def test_no_check_is_begun_when_the_minutes_are_used(capsys):
    assert main(["--rehearse", "--minutes", "0"], [FINE, WRONG]) == 0
    assert lines(capsys)[1] == {"check": "not begun", "names": ["fine", "wrong"]}


@without_a_gpu
def test_without_a_gpu_it_says_what_it_would_do(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("no CUDA device is here") and all(check.about in shown for check in checks())


@without_a_gpu
def test_the_cheap_checks_run_in_a_rehearsal(capsys):
    """The others take a minute: `python -m tests.gpu --rehearse` runs them all."""
    cheap = [
        "device_against_cpu",
        "isolation",
        "mask_or_none",
        "attention",
        "limits",
        "gpt2_124m",
        "memory",
        "decoding",
        "checkpoint",
    ]
    assert main(["--rehearse", "--only", *cheap]) == 0
    assert {line["check"] for line in lines(capsys)} >= set(cheap)


def test_the_names_are_different():
    names = [check.name for check in checks()]
    assert len(set(names)) == len(names)
    assert Place(True).device.type == "cpu" and Place(False).device.type == "cuda"
