"""Catches a family's first recipe that is refused, that keeps another data set's settings, or looks at nothing."""

import io
import json

import numpy as np
import pyarrow
import pytest
import soundfile
import yaml
from PIL import Image
from pyarrow import parquet

from pipeline.run.errors import UserError
from pipeline.run.stage import check_all, decisions, first_recipe_of, open_recipe


def write_pictures(folder, mode="RGB", classes=("cat", "dog"), side=40):
    for number in range(24):
        own = folder / classes[number % len(classes)] if classes else folder
        own.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (side, side + number, 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(own / f"{number}.png")
    return folder


def write_clips(folder, rate=22_050, classes=("kick", "snare")):
    for number in range(24):
        own = folder / classes[number % 2] if classes else folder
        own.mkdir(parents=True, exist_ok=True)
        wave = np.random.default_rng(number).normal(0, 0.1, (rate, 2))
        soundfile.write(own / f"{number}.wav", wave, rate)
    return folder


def with_texts(folder, suffix):
    for file in sorted(folder.rglob(f"*.{suffix}")):
        file.with_suffix(".txt").write_text(f"text of {file.stem}", encoding="utf-8")
    return folder


def write_pairs(path):
    rows = [{"id": n, "de": f"Satz {n} ist kurz.", "en": f"Sentence {n} is short."} for n in range(80)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


CASES = {
    "pixelcnn": lambda at: write_pictures(at / "p"),
    "vae": lambda at: write_pictures(at / "p", "L"),
    "gan": lambda at: write_pictures(at / "p", classes=()),
    "diffusion": lambda at: write_pictures(at / "p"),
    "wavenet": lambda at: write_clips(at / "c"),
    "transcription": lambda at: with_texts(write_clips(at / "c", classes=()), "wav"),
    "captioning": lambda at: with_texts(write_pictures(at / "p", classes=()), "png"),
    "text_to_image": lambda at: with_texts(write_pictures(at / "p", classes=()), "png"),
    "seq2seq": lambda at: write_pairs(at / "pairs.jsonl"),
}


@pytest.mark.parametrize("family", CASES)
def test_the_first_recipe_is_accepted_and_of_these_data(family, tmp_path):
    data = CASES[family](tmp_path)
    text = first_recipe_of(family)(str(data))
    (tmp_path / "r.yaml").write_text(text)
    config, stages = open_recipe(tmp_path / "r.yaml", [f"run.output_dir={tmp_path}/run"])
    check_all(config, stages, decisions(config, stages))
    tree = yaml.safe_load(text)
    assert tree["recipe"] == family and tree["data"]["path"] == str(data)
    assert tree["run"]["output_dir"].startswith(f"runs/{family}-") and tree["export"]["licence"] == "other"
    assert "commit" not in text, "another data set's figures"
    if family == "seq2seq":
        assert (tree["data"]["source_column"], tree["data"]["target_column"]) == ("de", "en")
    if family in ("vae", "gan"):
        assert tree["data"]["channels"] == (1 if family == "vae" else 3)
        assert ("features" in tree) == (family == "vae")


def test_what_cannot_be_begun_is_said(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="none of 1 pictures looked at can be read"):
        first_recipe_of("vae")(str(tmp_path / "broken"))
    (tmp_path / "one.jsonl").write_text('{"id": 1, "text": "so"}\n')
    with pytest.raises(UserError, match="expected: two, one a side"):
        first_recipe_of("seq2seq")(str(tmp_path / "one.jsonl"))
    with pytest.raises(UserError, match="headwater init has no first recipe for design"):
        first_recipe_of("design")
    for model in ("meta-llama/Llama-3.2-1B", "no such family", str(tmp_path), "..", "common"):
        assert first_recipe_of(model) is None, model


def test_a_table_of_pictures_is_known_by_its_columns(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (30, 20), (9, 80, 200)).save(picture, "PNG")
    rows = {"photo": [{"bytes": picture.getvalue(), "path": None}] * 40, "label": [0, 1] * 20}
    parquet.write_table(pyarrow.table(rows), tmp_path / "p.parquet")
    tree = yaml.safe_load(first_recipe_of("vae")(str(tmp_path / "p.parquet")))["data"]
    assert (tree["source"], tree["image_column"], tree["label_column"]) == ("parquet", "photo", "label")


@pytest.mark.parametrize(
    ("family", "name", "said"),
    [
        ("vae", "nowhere", "nothing at .*nowhere"),
        ("wavenet", "nowhere", "nothing at .*nowhere"),
        ("seq2seq", "nowhere.jsonl", "^nothing at .*nowhere.jsonl"),
        ("gan", "a.png", "is a file\nexpected: a folder of pictures"),
        ("seq2seq", "a.jsonl", "a.jsonl: not JSON"),
        ("transcription", "empty", "no clip in"),
    ],
)
def test_data_that_are_not_there_or_not_of_the_kind_are_named(tmp_path, family, name, said):
    (tmp_path / "empty").mkdir()
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "a.jsonl").write_text("nope\n")
    with pytest.raises(UserError, match=said):
        first_recipe_of(family)(str(tmp_path / name))
