"""Catches a captioning recipe that breaks between its stages, scores without their references, a verb that fails."""

import json

import pytest

from pipeline.run.artifact import verify_chain
from tests.captioning.cases import SMALL
from tests.whole.command import headwater, headwater_here, manifest

SHORT = (
    *SMALL,
    "data.max_images=80",
    "run.launch=launch/ddp.yaml",
    "train.max_steps=4",
    "train.train_batch_size=4",
    "train.per_device_train_batch_size=2",
    "evaluate.pictures=20",
    "evaluate.resamples=20",
    "sample.pictures=5",
    "export.pictures=2",
    "run.eval_steps=4",
    "run.save_steps=4",
    "run.logging_steps=1",
    "run.threads=1",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(the words of the command, the directory of its run, how it ended)."""
    output = tmp_path_factory.mktemp("captioning") / "run"
    words = ["recipes/captioning/scenes.yaml", *SHORT, f"run.output_dir={output}"]
    return words, output, headwater("run", *words)


def test_every_stage_is_made_and_verifies_down_to_the_pictures(finished):
    _, output, done = finished
    assert (done.code, done.err) == (0, "")
    made = {path.parent.name for path in output.glob("*/artifact.json")}
    assert made == {"prepare", "processor", "train", "evaluate", "sample", "export", "report"}
    assert manifest(output, "train")["made"]["world_size"] == 2
    assert manifest(output, "export")["metrics"]["captions_equal"] == 2
    assert len(verify_chain(output / "export")) >= 5
    assert "pipeline_tag: image-to-text" in (output / "export/README.md").read_text()


def test_captions_are_scored_beside_a_neighbours_and_chance(finished):
    _, output, done = finished
    scores = json.loads((output / "evaluate/evaluation.json").read_text())["scores"]
    table = {(score["name"], score["model"]): score for score in scores}
    for part in ("", ", colour", ", shape", ", count", ", relation"):
        for model in ("model", "nearest training picture", "chance"):
            assert 0 <= table[f"captions right{part}", model]["value"] <= 1
    assert table["chrF", "nearest training picture"]["value"] > 20
    assert "captions right" in done.out
    page = (output / "sample/page.html").read_text()
    assert page.count("<figure") == 5


def test_a_picture_of_ones_own_gets_a_caption(finished):
    _, output, _ = finished
    picture = output / "export/examples/0.png"
    done = headwater("describe", str(output), str(picture))
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{picture}: ")
    done = headwater("describe", str(output), str(output / "report/report.html"))
    assert done.code == 2 and "are no picture" in done.err


def test_the_same_command_again_does_nothing(finished):
    words, _, _ = finished
    done = headwater_here("run", *words)
    assert done.code == 0
    assert "all 7 stages" in done.out and "nothing to do" in done.out
