"""Catches a transcription recipe that breaks between its stages, scores without their references, a verb that fails."""

import json

import pytest

from pipeline.run.artifact import verify_chain
from tests.transcription.cases import SMALL, of_folder, write_clips
from tests.whole.command import headwater, headwater_here, manifest

SHORT = (
    *SMALL,
    "run.launch=launch/ddp.yaml",
    "train.max_steps=4",
    "train.train_batch_size=4",
    "train.per_device_train_batch_size=2",
    "evaluate.resamples=20",
    "sample.clips=3",
    "export.clips=2",
    "run.eval_steps=4",
    "run.save_steps=4",
    "run.logging_steps=1",
    "run.threads=1",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(the words of the command, the directory of its run, how it ended)."""
    folder = tmp_path_factory.mktemp("transcription")
    clips = of_folder(write_clips(folder / "clips", 80))
    words = ["recipes/transcription/tuxpaint.yaml", *SHORT, *clips, f"run.output_dir={folder / 'run'}"]
    return words, folder, headwater("run", *words)


def test_every_stage_is_made_and_verifies_down_to_the_clips(finished):
    _, folder, done = finished
    output = folder / "run"
    assert (done.code, done.err) == (0, "")
    made = {path.parent.name for path in output.glob("*/artifact.json")}
    assert made == {"prepare", "processor", "train", "evaluate", "sample", "export", "report"}
    assert manifest(output, "train")["made"]["world_size"] == 2
    assert manifest(output, "export")["metrics"]["transcripts_equal"] == 2
    assert len(verify_chain(output / "export")) >= 5
    assert "pipeline_tag: automatic-speech-recognition" in (output / "export/README.md").read_text()


def test_transcripts_are_scored_beside_a_neighbours_and_anothers(finished):
    _, folder, done = finished
    scores = json.loads((folder / "run/evaluate/evaluation.json").read_text())["scores"]
    table = {(score["name"], score["model"]): score for score in scores}
    for name in ("word error rate", "character error rate"):
        assert table[name, "nearest training clip"]["value"] < table[name, "another clip"]["value"]
        assert "BasicTextNormalizer" in table[name, "model"]["protocol"]
    assert "word error rate" in done.out
    sounds = json.loads((folder / "run/sample/sounds.json").read_text())
    assert len(sounds) == 3 and all("said: " in sound["caption"] for sound in sounds)
    assert (folder / "run/report/report.html").read_text().count("<audio") == 3


def test_a_clip_of_ones_own_gets_a_transcript(finished):
    _, folder, _ = finished
    clip = folder / "clips/00.wav"
    done = headwater("transcribe", str(folder / "run"), str(clip))
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{clip}: ")
    done = headwater("transcribe", str(folder / "run"), str(folder / "clips/00.txt"))
    assert done.code == 2 and "are no clip" in done.err


def test_the_same_command_again_does_nothing_and_a_new_transcript_is_seen(finished):
    words, folder, _ = finished
    done = headwater_here("run", *words)
    assert done.code == 0
    assert "all 7 stages" in done.out and "nothing to do" in done.out
    (folder / "clips/00.txt").write_text("la la")
    done = headwater_here("run", *words, "--dry-run")
    assert "00.txt" in done.out
