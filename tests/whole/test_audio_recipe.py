"""Catches a sound recipe that breaks between its stages, cannot be listened to, or does not see a changed clip."""

import json
import re

import numpy as np
import pytest
import soundfile

from pipeline.run.artifact import verify_chain
from recipes.wavenet.generate import read_wav
from tests.audio.conftest import tone
from tests.whole.command import headwater, headwater_here, manifest

SHORT = (
    "data.source=folder",
    "data.sample_rate=2000",
    "data.on_channels=error",
    "data.on_rate=error",
    "data.held_out=0.3",
    "model.channels=4",
    "model.skip_channels=4",
    "model.layers=3",
    "train.segment=160",
    "train.max_steps=4",
    "train.warmup_steps=0",
    "train.torch_compile=false",
    "evaluate.resamples=20",
    "sample.samples=3",
    "sample.seconds=0.1",
    "export.waves=2",
    "run.sample_steps=2",
    "run.sample_count=2",
    "run.eval_steps=2",
    "run.save_steps=2",
    "run.logging_steps=1",
    "run.threads=1",
)
MEL = "model.mel={bands: 6, window: 64, hop: 16}"
STAGES = ["prepare", "train", "evaluate", "sample", "export", "report"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(the words of the command, the directory of its run, how it ended): a vocoder of tones of two classes."""
    place = tmp_path_factory.mktemp("wavenet")
    for number in range(24):
        folder = place / "clips" / ("high", "low")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{number}.wav", tone(number, 0.2, 2000), 2000)
    words = ["recipes/wavenet/drums.yaml", *SHORT, MEL, f"data.path={place / 'clips'}"]
    words += [f"run.output_dir={place / 'run'}"]
    return words, place / "run", headwater("run", *words)


def test_every_stage_is_made_and_its_lineage_holds(finished):
    _, output, done = finished
    assert (done.code, done.err) == (0, "")
    assert {path.parent.name for path in output.glob("*/artifact.json")} == set(STAGES)
    assert manifest(output, "train")["made"]["world_size"] == 2
    assert manifest(output, "export")["metrics"] == {"waves_equal": 2}
    verify_chain(output / "export")


def test_scores_have_their_baselines_and_intervals(finished):
    _, output, done = finished
    scores = json.loads((output / "evaluate/evaluation.json").read_text())["scores"]
    models = {
        name: [s["model"] for s in scores if s["name"] == name]
        for name in ("bits per sample", "STFT distance")
    }
    assert models["bits per sample"] == ["EMA", "last step", "linear predictor", "FLAC"]
    assert models["STFT distance"] == ["WaveNet", "Griffin-Lim", "the clip in 256 codes"]
    assert all(s["interval"][0] <= s["value"] <= s["interval"][1] and s["count"] > 1 for s in scores)
    assert "bits per sample" in done.out and "STFT distance" in done.out


def test_waves_are_files_at_the_right_rate_and_the_report_plays_them(finished):
    _, output, _ = finished
    sounds = json.loads((output / "sample/sounds.json").read_text())
    assert [s["kind"] for s in sounds] == ["real"] * 3 + ["WaveNet"] * 3 + ["Griffin-Lim"] * 3
    for sound in sounds:
        assert len(read_wav(output / "sample" / sound["file"], 2000)) == 200
    page = (output / "report/report.html").read_text()
    assert page.count("<audio") == 9 and "media-src data:" in page
    assert len(re.findall(r"step 2|step 4", page)) >= 2  # drawn while it trained
    card = (output / "export/README.md").read_text()
    assert "python wavenet.py out.wav --seed 0 --label high --like like-0.wav" in card


def test_it_is_up_to_date_until_a_clip_changes(finished):
    words, output, _ = finished
    assert "up to date, nothing to do" in headwater("run", *words).out
    clip = output.parent / "clips" / "low" / "1.wav"
    before = clip.read_bytes()
    soundfile.write(clip, np.full(400, 0.1), 2000)
    try:
        told = headwater_here("run", *words, "--dry-run").out
    finally:
        clip.write_bytes(before)
    assert re.search(r"prepare +conflict +changed since: low/1.wav", told)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.segment=150", "train.segment = 150 is no whole number of model.mel.hop = 16 samples"),
        ("data.path=/nowhere", "data.path: nothing at /nowhere"),
        ("data.sample_rate=4000", "2,000 samples a second\nexpected: 4,000, or data.on_rate=resample"),
        ("model.mel={bands: 6, window: 64, hop: 65}", "window is even and no shorter than hop"),
        ("export.licence=GPL", "export.licence"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(finished, tmp_path, change, said):
    words, _, _ = finished
    done = headwater_here("run", *words, change, f"run.output_dir={tmp_path / 'run'}")
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
    assert not (tmp_path / "run").exists()
