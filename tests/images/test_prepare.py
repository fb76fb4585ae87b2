"""Catches a picture that is lost, swaps its label or its split, and bad data found only after training began."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from pipeline.data.sources import is_held_out
from pipeline.run.errors import UserError
from recipes.common import debian
from recipes.common.images import prepare
from recipes.common.images.dataset import PreparedImages
from recipes.common.images.ledger import PictureLedger
from recipes.common.ledger import Record
from recipes.common.rows import Row
from tests.helpers import ROOT

SPLITS = ("train", "held_out")


def numbers(directory, split):
    """The numbers in the corners of the pictures, in the order in which they lie."""
    return PreparedImages.open(directory, split).images[:, 0, 0, 0].tolist()


def ledgers(directory):
    found = json.loads((directory / "ledger.json").read_text())
    return found, {entry["name"]: entry for entry in found["pictures"]}


def test_every_picture_is_in_its_split_with_its_own_pixels_and_label(run_prepare, folder, picture):
    metrics, directory = run_prepare(path=folder)
    seen = []
    for split in SPLITS:
        prepared = PreparedImages.open(directory, split)
        assert prepared.classes == ("a", "b") and metrics[split] == len(prepared.labels)
        assert prepared.images.shape == (metrics[split], 8, 8, 3) and prepared.images.dtype == np.uint8
        keys = json.loads((directory / f"{split}.keys.json").read_text())
        for kept, image, label in zip(keys, prepared.images, prepared.labels, strict=True):
            number = int(image[0, 0, 0])
            assert np.array_equal(image, picture(number))
            assert prepared.classes[label] == ("a" if number < 60 else "b")
            key = f"{prepared.classes[label]}/{number:03}.png"
            assert is_held_out(key, 0.2) == (split == "held_out")
            assert kept == key
            seen.append(number)
    assert sorted(seen) == list(range(100))
    assert set(os.listdir(directory)) == FILES


FILES = {
    "classes.json",
    "ledger.json",
    *(f"{split}.{kind}" for split in SPLITS for kind in ("images.npy", "labels.npy", "keys.json")),
}


def test_a_pictures_split_does_not_depend_on_the_other_pictures(run_prepare, folder):
    _, whole = run_prepare(path=folder)
    for path in (folder / "a").glob("*[05].png"):
        path.unlink()
    _, part = run_prepare(path=folder)
    for split in SPLITS:
        left = set(numbers(part, split))
        assert left < set(numbers(whole, split))
        assert [number for number in numbers(whole, split) if number in left] == numbers(part, split)


def test_the_first_pictures_are_a_fair_draw_and_max_images_takes_them(run_prepare, folder):
    _, whole = run_prepare(path=folder)
    metrics, some = run_prepare(path=folder, max_images=12)
    assert 2 <= sum(number >= 60 for number in numbers(whole, "train")[:12]) <= 9
    for split in SPLITS:
        assert numbers(some, split) == numbers(whole, split)[:12] and metrics[split] == 12
    found, by_split = ledgers(some)
    assert sum(entry["beyond_max_images"] for entry in by_split.values()) == 100 - 24


def test_a_class_that_is_left_out_stays_held_out(run_prepare, folder):
    _, whole = run_prepare(path=folder)
    metrics, without = run_prepare(path=folder, left_out_class="b")
    assert all(number < 60 for number in numbers(without, "train"))
    assert numbers(without, "held_out") == numbers(whole, "held_out")
    assert metrics["classes"] == 2  # it keeps its place, so labels mean the same
    _, by_split = ledgers(without)
    assert by_split["train"]["left_out_class"] == sum(number >= 60 for number in numbers(whole, "train"))
    assert by_split["held_out"]["left_out_class"] == 0


def test_the_ledger_balances_and_lists_what_was_skipped_and_converted(run_prepare, folder, encode, picture):
    broken = sorted(folder.rglob("*.png"))[::7]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    (folder / "b" / "grey.png").write_bytes(encode(picture(7, channels=1)))
    (folder / "b" / "notes.txt").write_text("")
    with pytest.raises(UserError, match="way out: mend it, or data.on_bad_row=skip"):
        run_prepare(path=folder)
    metrics, directory = run_prepare(path=folder, on_bad_row="skip", left_out_class="a", max_images=20)
    found, by_split = ledgers(directory)
    for entry in by_split.values():
        parts = ("kept", "left_out_class", "beyond_max_images", "skipped")
        assert entry["pictures_in"] == sum(entry[part] for part in parts)
    assert sum(entry["pictures_in"] for entry in by_split.values()) == 101
    assert (
        sum(entry["skipped"] for entry in by_split.values())
        == len(found["skipped"])
        == metrics["skipped"]
        > 0
    )
    assert {entry["file"] for entry in found["skipped"]} <= set(map(str, broken))
    assert all("cut off" in entry["reason"] and entry["row"] is None for entry in found["skipped"])
    assert found["conversions"]["other_files"] == 1
    assert {entry["name"]: entry["train"] for entry in found["classes"]} == {
        "a": 0,
        "b": by_split["train"]["kept"],
    }


def test_a_ledger_that_does_not_balance_is_our_mistake():
    with pytest.raises(AssertionError, match="ledger train: 9 pictures in, but 8 kept"):
        PictureLedger("train", pictures_in=9, kept=8).as_json()


def test_the_fingerprint_follows_key_label_and_content():
    row = Row("a/1.png", "/somewhere/a/1.png", None, 0, False)
    given = [
        (row, b"x"),
        (replace(row, key="a/2.png"), b"x"),
        (replace(row, label=1), b"x"),
        (row, b"y"),
        (row, np.zeros(1, np.uint8)),
        (replace(row, file="/elsewhere/a/1.png"), b"x"),
    ]
    found = [fingerprint([pair]) for pair in given]
    assert len(set(found)) == 5 and found[0] == found[-1]
    assert fingerprint(given[:2]) != fingerprint(given[1::-1])


def fingerprint(pairs):
    record = Record()
    for pair in pairs:
        record.see(*pair)
    return record.fingerprint


def test_the_same_pictures_have_the_same_fingerprint_wherever_they_lie(run_prepare, folder):
    first = run_prepare(path=folder)[0]["fingerprint"]
    folder.rename(folder.with_name("moved"))
    assert run_prepare(path=folder.with_name("moved"))[0]["fingerprint"] == first


def test_pictures_without_labels_have_none(run_prepare, folder):
    metrics, directory = run_prepare(path=folder / "a")
    prepared = PreparedImages.open(directory, "train")
    assert metrics["classes"] == 0 and prepared.classes == () and set(prepared.labels) == {-1}


@pytest.mark.parametrize(
    "source, side, channels, sizes",
    [("digits", 8, 1, (1605, 192)), ("digits", 8, 3, (1605, 192)), ("stacked_digits", 8, 3, (447, 53))],
)
def test_digits_need_no_file(run_prepare, source, side, channels, sizes):
    limit = {"max_images": 500} if source == "stacked_digits" else {}
    metrics, directory = run_prepare(source=source, image_size=side, channels=channels, held_out=0.1, **limit)
    for split, size in zip(SPLITS, sizes, strict=True):
        prepared = PreparedImages.open(directory, split)
        assert prepared.images.shape == (size, side, side, channels) and prepared.images.max() == 255
    assert metrics["licence"] == "BSD-3-Clause"


def test_fashion_mnist_goes_from_its_files_to_arrays(run_prepare, fashion_files):
    directory, ((images, labels), _) = fashion_files
    metrics, made = run_prepare(source="fashion_mnist", path=directory, image_size=28, channels=1)
    assert (metrics["train"], metrics["held_out"], metrics["licence"]) == (30, 12, "MIT")
    prepared = PreparedImages.open(made, "train")
    expected = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    assert {
        image.tobytes(): label for image, label in zip(prepared.images, prepared.labels, strict=True)
    } == expected


def test_a_download_is_announced(run_prepare, fashion_files, monkeypatch, capsys):
    monkeypatch.setattr(debian, "find", lambda package, path: None)
    monkeypatch.setattr(debian, "check_download", lambda package: None)
    monkeypatch.setattr(debian, "download", lambda package: fashion_files[0])
    run_prepare(source="fashion_mnist", image_size=28, channels=1)
    assert capsys.readouterr().err == "prepare: downloading dataset-fashion-mnist, 31 MB\n"


def check(settings, **given):
    prepare.check(SimpleNamespace(data=settings(**given)))


@pytest.mark.parametrize(
    "given, said",
    [
        ({"source": "digits", "image_size": 16}, "image_size = 16: pictures of digits have 8.*\n.*\nway out"),
        ({"source": "fashion_mnist", "image_size": 30}, "expected: 28 or 32"),
        ({"source": "stacked_digits", "channels": 1}, "data.channels = 1: a stack of three"),
        ({"source": "digits", "left_out_class": "3.0"}, "no class '3.0'"),
        (
            {"source": "fashion_mnist", "image_size": 28, "left_out_class": "Bog"},
            "no class 'Bog'\ndid you mean 'Bag'",
        ),
        ({"source": "datasets", "path": "a/b/c"}, "neither a folder nor a name"),
        ({"source": "folder"}, "data.path is missing"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_a_look(settings, monkeypatch, given, said):
    monkeypatch.setattr(debian, "check_download", lambda package: None)
    with pytest.raises(UserError, match=said):
        check(settings, **given)


def test_a_look_decodes_some_pictures_of_every_part_of_the_source(settings, folder, encode, picture):
    for path in (folder / "b").iterdir():
        path.write_bytes(encode(picture(1, side=9)))
    with pytest.raises(
        UserError, match=f"{folder}/b/.*.png: 9 x 9 pixels\nexpected: 8 x 8, or data.on_size=crop"
    ):
        check(settings, path=folder)
    check(settings, path=folder, on_bad_row="skip")
    check(settings, path=folder, on_size="crop")


def test_a_class_without_a_name_is_refused_where_there_are_no_labels(settings, folder):
    with pytest.raises(UserError, match="no class 'a'\nthese pictures have no labels"):
        check(settings, path=folder / "a", left_out_class="a")


@pytest.mark.parametrize("held_out, empty", [(1e-9, "held_out"), (1 - 1e-9, "train")])
def test_a_split_without_a_picture_is_refused(run_prepare, folder, held_out, empty):
    with pytest.raises(UserError, match=f"{empty} is empty: 0 pictures in.*\n.*\nway out: .*data.held_out"):
        run_prepare(path=folder, held_out=held_out)


def test_where_every_picture_is_bad_the_first_is_shown(run_prepare, folder):
    with pytest.raises(
        UserError, match="train is empty: .* skipped; the first that was skipped: .*png.*9 pixels|8 x 8"
    ):
        run_prepare(path=folder, image_size=9, on_bad_row="skip")


def test_a_user_sees_the_file_and_exit_code_2_and_nothing_is_written(tmp_path, folder):
    (folder / "a" / "000.png").write_bytes(b"no picture")
    recipe = yaml.safe_load((ROOT / "recipes" / "vae" / "digits.yaml").read_text())
    recipe["run"]["output_dir"] = str(tmp_path / "run")
    recipe["data"] = {"source": "folder", "path": str(folder), "image_size": 8, "channels": 1}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "pipeline", "run", str(tmp_path / "own.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert f"{folder}/a/000.png: 10 bytes are no picture" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 5 and not (tmp_path / "run").exists()


def test_the_stage_is_light_to_import():
    code = "import sys, recipes.common.images.prepare; print({'torch', 'PIL', 'pyarrow', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
