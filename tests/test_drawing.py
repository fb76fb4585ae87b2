"""Catches samples that disturb the training they are drawn from, show other weights, or outlive the run they show."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.publish.html.training import alarms as alarms_part
from pipeline.publish.html.training import drawings as drawings_part
from pipeline.run.config import Run, Section
from pipeline.run.results import read_log, step_of, steps_of
from pipeline.run.stage import Context, Stage
from pipeline.train.drawing import Drawings, alarms
from pipeline.train.engine import Runtime
from pipeline.train.fit import fit
from pipeline.train.loop import Trainer, steps
from recipes.common.images.sheet import save_sheet
from tests.helpers import Toy, toy_training

ALONE = Runtime(rank=0, world_size=1, device=torch.device("cpu"), zero_stage=None)
LAUNCHERS = ("one", "ddp", "zero1", "zero2", "zero3")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_training_goes_on_as_if_nothing_had_been_drawn(report_of, launcher):
    seen = report_of(launcher)["drawing"]
    assert seen["losses"][0] == seen["losses"][1]
    assert seen["states"][0] == seen["states"][1]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_process_draws_the_same_and_the_weights_move_on(report_of, launcher):
    figures = report_of(launcher)["drawing"]["figures"]
    assert all(own == figures[0] for own in figures)
    assert len({own["spread"] for own in figures[0]}) == 4


def test_samples_are_drawn_with_the_shadows_and_the_nets_are_given_back(tmp_path):
    trainer = Trainer(Toy(toy_training(ema_decay=0.9)), ALONE)
    for _ in steps(trainer):
        pass
    net = trainer.nets()["model"]
    before = [parameter.clone() for parameter in net.parameters()]
    Drawings(tmp_path, "train", 0, trainer).draw(6, 2)
    assert net.training and all(map(torch.equal, before, net.parameters()))
    drawn = np.load(tmp_path / "train.samples" / "step-00000006" / "logits.npy")
    assert not np.array_equal(drawn, _logits(trainer, tmp_path))
    with trainer.emas["model"].swapped():
        assert np.array_equal(drawn, _logits(trainer, tmp_path))


def _logits(trainer: Trainer, out: Path) -> np.ndarray:
    with torch.no_grad():
        trainer.recipe.sample({"model": trainer.engines["model"].module.eval()}, [0, 1], out)
    return np.load(out / "logits.npy")


class OneStage(Section):
    """A config of a run alone."""

    run: Run


def toy_context(tmp_path: Path, **run: object) -> Context:
    config = OneStage(run=Run(output_dir=tmp_path, logging_steps=2, **run))
    directories = {"out": tmp_path / "out", "checkpoints": tmp_path / "checkpoints", "logs": tmp_path}
    directories["checkpoints"].mkdir(parents=True, exist_ok=True)
    return Context(config, Stage("train", "", {}), {}, terminal=io.StringIO(), **directories)


def test_a_run_draws_when_asked_logs_the_figures_and_says_what_is_wrong(tmp_path):
    context = toy_context(tmp_path, sample_steps=4, sample_count=5)
    fit(Toy(toy_training()), context, ALONE)
    assert [step_of(path) for path in steps_of(tmp_path / "train.samples")] == [4, 6]
    assert context.terminal.getvalue() == "".join(
        f"warning: step {step}: alarm: too many\n" for step in (4, 6)
    )
    lines = [json.loads(line) for line in (tmp_path / "train.metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "alarm_too_many" in line] == [4, 6]


def test_where_there_is_no_terminal_a_line_a_minute_says_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.train.progress.LINE_SECONDS", 0.0)
    context = toy_context(tmp_path)
    fit(Toy(toy_training()), context, ALONE)
    lines = context.terminal.getvalue().splitlines()
    assert [line.split(", ")[0] for line in lines] == [f"train: step {step} of 6" for step in (2, 4, 6)]
    assert re.fullmatch(r"train: step 4 of 6, loss [\d.]+, [\d,]+ samples/s, \d+\.\d s left", lines[1])
    monkeypatch.setattr("pipeline.train.progress.LINE_SECONDS", 60.0)
    (tmp_path / "quick").mkdir()
    quick = toy_context(tmp_path / "quick")
    fit(Toy(toy_training()), quick, ALONE)
    assert quick.terminal.getvalue() == ""


def test_a_run_that_is_not_asked_draws_nothing(tmp_path):
    fit(Toy(toy_training()), toy_context(tmp_path), ALONE)
    assert not (tmp_path / "train.samples").exists()


@pytest.mark.parametrize(("start", "left"), [(0, []), (4, [2, 4]), (6, [2, 4, 6])])
def test_what_was_drawn_after_the_step_that_is_resumed_is_gone(tmp_path, start, left):
    trainer = Trainer(Toy(toy_training()), ALONE)
    drawings = Drawings(tmp_path, "train", 0, trainer)
    for step in (2, 4, 6):
        drawings.draw(step, 1)
    Drawings(tmp_path, "train", start, trainer)
    assert [step_of(path) for path in steps_of(tmp_path / "train.samples")] == left


def test_only_alarms_that_ring_are_said():
    assert alarms({"recall": 1.0, "alarm_low_recall": 1.0, "alarm_copies": 0.0}) == ["alarm: low recall"]


def test_the_report_shows_first_and_last_drawings_and_what_rang(tmp_path):
    for step in range(1, 31):
        out = tmp_path / "train.samples" / f"step-{step:08d}"
        out.mkdir(parents=True)
        save_sheet(np.full((4, 8, 8, 1), step, np.uint8), out / "samples.png")
    entries = [{"step": step, "alarm_copies": float(step == 20), "alarm_quiet": 0.0} for step in (10, 20, 30)]
    path = tmp_path / "train.metrics.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    logs = {"train": read_log(path)}
    shown = drawings_part(logs).body
    assert shown.count("<img") == 8 and "samples, step 1<" in shown and "samples, step 30<" in shown
    rang = alarms_part(logs).body
    assert "train: copies, at step 20, 1 of 3 looks, last at step 20" in rang and "quiet" not in rang
    path.write_text(json.dumps({"step": 1, "alarm_copies": 0.0}) + "\n")
    assert alarms_part({"train": read_log(path)}) is None
