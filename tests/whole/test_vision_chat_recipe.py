"""Catches a recipe of conversations about pictures that breaks between its stages, or scores without references."""

import json

import pytest

from pipeline.run.artifact import verify_chain
from tests.vision_chat.cases import SMALL, square, write_base, write_rows
from tests.whole.command import headwater, headwater_here, manifest

SHORT = (
    *SMALL,
    "run.launch=launch/ddp.yaml",
    "train.max_steps=4",
    "train.train_batch_size=4",
    "train.per_device_train_batch_size=2",
    "train.lora={r: 4, lora_alpha: 8}",
    "evaluate.resamples=20",
    "sample.rows=3",
    "export.rows=2",
    "run.eval_steps=4",
    "run.save_steps=4",
    "run.logging_steps=1",
    "run.threads=1",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(the words of the command, its folder, how it ended)."""
    folder = tmp_path_factory.mktemp("chat")
    given = [f"data.path={write_rows(folder / 'rows')}", f"model.pretrained={write_base(folder / 'base')}"]
    words = ["recipes/vision_chat/vlm_gpu.yaml", *SHORT, *given, f"run.output_dir={folder / 'run'}"]
    return words, folder, headwater("run", *words)


def test_every_stage_is_made_and_verifies_down_to_the_rows(finished):
    _, folder, done = finished
    output = folder / "run"
    assert (done.code, done.err) == (0, "")
    made = {path.parent.name for path in output.glob("*/artifact.json")}
    assert made == {"prepare", "tokenize", "train", "evaluate", "sample", "export", "report"}
    assert manifest(output, "train")["made"]["world_size"] == 2
    assert manifest(output, "export")["metrics"]["answers_equal"] == 2
    assert len(verify_chain(output / "export")) >= 5
    assert "pipeline_tag: image-text-to-text" in (output / "export/README.md").read_text()


def test_answers_are_scored_beside_the_model_before_and_grey_pictures(finished):
    _, folder, done = finished
    scores = json.loads((folder / "run/evaluate/evaluation.json").read_text())["scores"]
    table = {(score["name"], score["model"]): score["value"] for score in scores}
    for model in ("model", "before training", "model, grey pictures"):
        assert 0 < table["held-out nats a token", model] < 10
    assert {"model", "before training", "another row's answer"} <= {
        model for name, model in table if name == "answers right"
    }
    assert "held-out nats a token" in done.out
    page = (folder / "run/sample/page.html").read_text()
    assert page.count("<figure") == 3 and "which colour is it ?" in page


def test_a_picture_of_ones_own_is_asked_about(finished):
    _, folder, _ = finished
    square("red", 30).save(folder / "own.png")
    done = headwater(
        "describe", str(folder / "run"), str(folder / "own.png"), "--ask", "which colour is it ?"
    )
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{folder / 'own.png'}: ")
    done = headwater("describe", str(folder / "run"), str(folder / "own.png"))
    assert done.code == 2 and "way out: --ask" in done.err


def test_the_same_command_again_does_nothing_and_a_changed_picture_is_seen(finished):
    words, folder, _ = finished
    done = headwater_here("run", *words)
    assert done.code == 0
    assert "all 7 stages" in done.out and "nothing to do" in done.out
    square("green", 99).save(folder / "rows/0-0.png")
    done = headwater_here("run", *words, "--dry-run")
    assert "0-0.png" in done.out
