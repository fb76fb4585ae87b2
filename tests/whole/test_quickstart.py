"""Catches a quickstart that breaks between its stages: one left out, made twice, resumed as another, damaged unseen."""

import json
import shutil
import signal
import time

import psutil
import pytest

from pipeline.run.artifact import read
from pipeline.run.supervise import claim
from tests.whole.command import (
    STAGES,
    decided,
    headwater,
    listing,
    manifest,
    miniature,
    run_miniature,
)


def test_every_stage_is_made_in_order(finished):
    output, done = finished
    started = [line for line in done.out.splitlines() if ": running" in line]
    assert [line.partition(" in ")[0] for line in started] == [f"{stage}: running" for stage in STAGES]
    assert all(
        " in bf16; " in line or " in fp32; " in line for line in started if "tune" in line or "pre" in line
    )
    assert [manifest(output, stage)["stage"] for stage in STAGES] == list(STAGES)
    for stage in ("pretrain", "finetune"):
        assert manifest(output, stage)["made"]["launcher"] == "ZeRO-2, 2 x cpu"
    assert done.err == ""


def test_the_summary_shows_scores_samples_and_the_way_on(finished):
    output, done = finished
    summary = done.out.partition("Made in ")[2]
    assert len(summary.splitlines()) <= 24
    for stage in STAGES:
        assert f"{stage} " in summary.partition("Scores (3 of ")[0]
    scores, _, samples = summary.partition("Samples:")
    assert all(
        name in scores
        for name in ("bits per byte", "base", "fine-tuned", "xz -9e", "conversation loss", "parsed functions")
    )
    assert all(prompt in samples for prompt in ("base > def read_lines(path):", "chat > Write the docstring"))
    assert f"Report, with every score: {output}/report/report.html" in samples
    assert samples.rstrip().endswith(f"Talk to it: headwater chat {output}")


def test_the_same_command_again_does_nothing_and_says_so(finished):
    output, _ = finished
    before = listing(output)
    again = run_miniature(output)
    assert (again.code, again.err) == (0, "")
    assert again.out == f"{output}: all 8 stages are up to date, nothing to do\n"
    assert again.seconds < 3  # measured 0.2
    assert listing(output) == before


def test_the_status_is_complete(finished):
    output, _ = finished
    rows = json.loads(headwater("status", *miniature(output), "--json").out)
    assert [row["stage"] for row in rows] == list(STAGES)
    for row in rows:
        assert (row["state"], row["reason"]) == ("up to date", "")
        assert row["directory"] == str(output / row["stage"])
        assert row["seconds"] == manifest(output, row["stage"])["made"]["seconds"]
        assert row["digest"] == read(output / row["stage"]).digest[:12]
        assert row["metrics"] == manifest(output, row["stage"])["metrics"]
    assert [row["stage"] for row in rows if not row["metrics"]] == ["report"]  # it measures nothing


def test_a_dry_run_decides_every_stage_and_writes_nothing(tmp_path):
    done = run_miniature(tmp_path / "new", "--dry-run")
    assert done.code == 0
    assert [line.split() for line in done.out.splitlines()] == [
        [stage, "run", "nothing", "there", "yet"] for stage in STAGES
    ]
    assert listing(tmp_path) == {}


def test_an_untouched_run_verifies_whole(finished):
    done = headwater("verify", str(finished[0] / "report"))
    assert done.code == 0
    assert sorted(line.split()[0] for line in done.out.splitlines()) == sorted(STAGES)
    assert all(line.endswith(": verified") for line in done.out.splitlines())


def test_one_flipped_byte_is_found_and_nothing_is_made_from_it(copied):
    weights = copied / "pretrain" / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    shutil.rmtree(copied / "report")  # the cheapest stage that reads the weights' directory

    verified = headwater("verify", str(copied / "export"))
    assert verified.code == 2
    assert f"{weights} has another sha256" in verified.err and "way out: " in verified.err

    refused = run_miniature(copied)
    assert refused.code == 2
    assert f"{weights} has another sha256" in refused.err and "--replace pretrain" in refused.err
    assert len(refused.err.splitlines()) <= 5
    assert not (copied / "report").exists()


def test_a_changed_setting_is_a_conflict_with_two_ways_out(finished):
    output, _ = finished
    before = listing(output)
    refused = run_miniature(output, "finetune.learning_rate=0.002")
    assert (refused.code, refused.out) == (2, "")
    assert "finetune.learning_rate: 0.001 -> 0.002" in refused.err
    assert "another run.output_dir" in refused.err and "--replace finetune" in refused.err
    assert listing(output) == before


def test_replace_makes_the_changed_stage_and_what_follows_from_it_again(copied):
    shutil.rmtree(copied / "export")
    changed = ("export=null", "generate.max_new_tokens=4")
    refused = run_miniature(copied, *changed, "--replace", "generate", "pretrain.max_steps=41")
    assert (
        refused.code == 2 and (copied / "generate").is_dir()
    )  # nothing is discarded for a run that is refused

    kept = {stage: read(copied / stage).digest for stage in STAGES[:5]}
    replaced = run_miniature(copied, *changed, "--replace", "generate")
    assert replaced.code == 0, replaced.err
    running = [line for line in replaced.out.splitlines() if line.endswith(": running")]
    assert running == ["generate: running", "report: running"]
    assert {stage: read(copied / stage).digest for stage in kept} == kept
    assert manifest(copied, "generate")["identity"]["generate"]["max_new_tokens"] == 4


def test_a_stage_that_is_being_made_is_not_made_beside_it(copied):
    shutil.rmtree(copied / "report")
    with claim(copied / ".partial" / "report.lock", "report"):
        refused = headwater("stage", "report", *miniature(copied))
    assert refused.code == 2 and "is being made by process " in refused.err
    assert not (copied / "report").exists()
    assert headwater("stage", "report", *miniature(copied)).code == 0


@pytest.fixture(scope="module")
def interrupted(finished, tmp_path_factory):
    """Pretraining stopped by SIGTERM, then killed, then run to its end: its directory, and each command's end."""
    output = tmp_path_factory.mktemp("interrupted") / "quickstart"
    for stage in ("tokenizer", "tokenize"):
        shutil.copytree(finished[0] / stage, output / stage)

    ends = {"terminated": run_miniature(output, until=lambda: steps(output) > 0, stop=signal.SIGTERM)}
    ends["left by SIGTERM"] = (steps(output), running_on(output))
    saved = steps(output)
    command = ("stage", "pretrain", *miniature(output))
    ends["killed"] = headwater(*command, until=lambda: steps(output) > saved, stop=signal.SIGKILL)
    ends["left by SIGKILL"] = (steps(output), running_on(output))
    ends["same command"] = headwater(*command)
    return output, ends


def steps(output):
    """The last step that a whole checkpoint of pretraining holds; 0 without one."""
    found = (output / "checkpoints" / "pretrain").glob("step-*/manifest.json")
    return max((int(path.parent.name.removeprefix("step-")) for path in found), default=0)


def running_on(output):
    """Processes that work in `output` a while after their command has ended."""
    deadline = time.monotonic() + 5
    while (found := _processes(output)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _processes(output):
    found = psutil.process_iter(["cmdline", "status"])
    return [p.pid for p in found if f"run.output_dir={output}" in (p.info["cmdline"] or ())]


def test_sigterm_saves_ends_with_3_and_starts_no_further_stage(interrupted):
    _, ends = interrupted
    done = ends["terminated"]
    step, running = ends["left by SIGTERM"]
    assert done.code == 3
    assert (
        done.err == f"error: pretrain: stopped on request after step {step}; the same command resumes there\n"
    )
    assert 5 <= step < 40 and running == []
    assert "finetune" not in done.out


def test_sigkill_leaves_a_whole_checkpoint_and_no_process(interrupted):
    output, ends = interrupted
    step, running = ends["left by SIGKILL"]
    assert ends["killed"].code == -signal.SIGKILL
    assert ends["left by SIGTERM"][0] < step < 40 and running == []


def test_the_interrupted_run_is_the_uninterrupted_one_bit_for_bit(interrupted, finished):
    output, ends = interrupted
    assert ends["same command"].code == 0, ends["same command"].err
    assert "pretrain: resuming" in ends["same command"].out
    weights = "pretrain/model/model.safetensors"
    assert (output / weights).read_bytes() == (finished[0] / weights).read_bytes()
    assert read(output / "pretrain").digest == read(finished[0] / "pretrain").digest
    assert losses(output) == losses(finished[0])
    assert decided(output)["finetune"] == "run"


def losses(output):
    lines = (output / "logs" / "pretrain.metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if "per_second" not in key} for line in lines
    ]
