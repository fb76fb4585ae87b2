"""Catches clips that vanish without a line in the ledger, splits that leak, segments that miss or repeat a sample."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from pipeline.run.errors import UserError
from pipeline.run.stage import Context, Stage
from recipes.common.audio import packages, prepare
from recipes.common.audio.dataset import PreparedAudio, Segments
from recipes.common.audio.ledger import ClipLedger
from recipes.common.audio.readers import open_source
from tests.audio.conftest import RATE, tone


@pytest.fixture
def run_prepare(tmp_path, settings):
    def run(**given):
        out = tmp_path / "prepare"
        out.mkdir(exist_ok=True)
        config = SimpleNamespace(data=settings(**given))
        stage = Stage("prepare", "recipes.common.audio.prepare", {})
        prepare.check(config)
        return prepare.run(Context(config, stage, {}, out, out, out, io.StringIO())), out

    return run


def test_a_folder_becomes_samples_classes_and_a_balanced_ledger(folder, run_prepare):
    metrics, out = run_prepare(path=folder)
    train, held_out = (PreparedAudio.open(out, split) for split in ("train", "held_out"))
    assert train.classes == ("high", "low") and metrics["classes"] == 2
    assert not set(train.keys) & set(held_out.keys) and len(train) + len(held_out) == 50
    for split in (train, held_out):
        for number, key in enumerate(split.keys):
            wave = tone(int(Path(key).stem))
            assert len(split.clip(number)) == len(wave)
            assert np.corrcoef(split.clip(number), wave)[0, 1] > 0.9
            assert split.classes[split.labels[number]] == key.split("/")[0]
    ledger = json.loads((out / "ledger.json").read_text())
    assert [row["kept"] for row in ledger["clips"]] == [len(train), len(held_out)]
    assert metrics["train_seconds"] == pytest.approx(len(train) * 0.5, abs=0.06)


def test_bad_clips_are_refused_by_name_or_skipped_and_listed(folder, run_prepare):
    bad = folder / "low" / "stereo.wav"
    soundfile.write(bad, np.stack([tone(1), tone(1)], 1), RATE)
    (folder / "low" / "broken.flac").write_bytes(b"no clip")
    with pytest.raises(UserError, match="way out: mend it, or data.on_bad_row=skip"):
        run_prepare(path=folder)
    metrics, out = run_prepare(path=folder, on_bad_row="skip")
    skipped = json.loads((out / "ledger.json").read_text())["skipped"]
    assert metrics["skipped"] == 2 == len(skipped)
    assert {"file": str(bad), "row": None, "reason": "2 channels"} in skipped


def test_more_than_max_clips_are_counted_and_a_lost_clip_is_a_defect(folder, run_prepare):
    _, out = run_prepare(path=folder, max_clips=5)
    first = json.loads((out / "ledger.json").read_text())["clips"][0]
    assert first["kept"] == 5 and first["clips_in"] == 5 + first["beyond_max_clips"]
    with pytest.raises(AssertionError, match="3 clips in, but 1 kept"):
        ClipLedger("train", clips_in=3, kept=1, skipped=1).balance()


@pytest.mark.parametrize(
    "given, said",
    [
        ({}, "data.path is missing"),
        ({"path": "/nowhere/clips"}, "nothing at /nowhere/clips"),
        ({"source": "tuxpaint", "path": "/"}, "/ has no animals"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_a_look(run_prepare, given, said):
    with pytest.raises(UserError, match=said):
        run_prepare(**given)


def test_a_split_without_a_clip_is_refused(folder, run_prepare):
    with pytest.raises(UserError, match="held_out is empty: 0 clips in"):
        run_prepare(path=folder, held_out=1e-9)


def test_stamps_are_held_out_in_all_their_languages(tmp_path, settings):
    for place in ("animals", "symbols"):
        (tmp_path / place).mkdir()
    for number in range(40):
        for suffix in ("_desc", "_desc_fr", "_desc_ro", ""):
            (tmp_path / "animals" / f"cow_{number}{suffix}.ogg").touch()
    source = open_source(settings(source="tuxpaint", path=tmp_path, held_out=0.3))
    assert source.classes == ("en", "fr", "ro") and len(source.rows) == 120
    split = {}
    for row in source.rows:
        split.setdefault(row.key.split("_desc")[0], set()).add(row.held_out)
    assert all(len(sides) == 1 for sides in split.values()) and {True} in split.values()
    some = open_source(settings(source="tuxpaint", path=tmp_path, languages=("ro",), labels=False))
    assert some.classes == () and {row.label for row in some.rows} == {-1} and len(some.rows) == 40
    with pytest.raises(UserError, match="no clip in 'rp'\nchoices: en, fr, ro"):
        open_source(settings(source="tuxpaint", path=tmp_path, languages=("rp",)))


def test_sounds_of_sonic_pi_are_classed_by_how_their_names_begin(tmp_path, settings):
    names = [*packages.SONIC_PI.holds, "drum_roll.flac", "drum_tom.flac"]
    for name in names:
        (tmp_path / name).touch()
    source = open_source(settings(source="sonic_pi", path=tmp_path))
    assert source.classes == ("ambi", "drum", "tabla")
    assert {row.key: source.classes[row.label] for row in source.rows}["drum_roll.flac"] == "drum"


@pytest.mark.parametrize("seed", [None, 3])
def test_segments_hold_every_sample_of_every_clip_once_an_epoch(folder, run_prepare, seed):
    _, out = run_prepare(path=folder)
    audio = PreparedAudio.open(out, "held_out")
    split = Segments(audio, size=300, left=50, right=20, seed=seed)
    for epoch in range(2):
        seen = [split.item(epoch * split.length + index) for index in range(split.length)]
        assert sum(int(item["length"]) for item in seen) == len(audio.samples)
        held = np.concatenate([item["wave"][50 : 50 + int(item["length"])] for item in seen])
        assert np.array_equal(np.sort(held), np.sort(audio.samples))
    first = Segments(audio, size=300, left=50, right=20, seed=None)
    clip = audio.clip(0)
    assert np.array_equal(first.item(0)["wave"], np.concatenate([np.zeros(50, np.int16), clip[:320]]))
    assert np.array_equal(first.item(1)["wave"], clip[250:620])
