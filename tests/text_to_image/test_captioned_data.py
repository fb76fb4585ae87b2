"""Catches captions that go to another picture, bad rows that pass, and emoji under a wrong name."""

import io
import json
import tarfile

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from pipeline.run.errors import UserError
from pipeline.run.files import digest_of
from recipes.common import npm
from recipes.common.images import emoji
from recipes.common.images.config import Captioned
from recipes.common.images.dataset import PreparedImages
from recipes.common.images.prepare import check
from recipes.common.images.readers import open_source
from tests.text_to_image.cases import SimpleNamespace, context_of, prepare

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0), "white": (255, 255, 255)}


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), COLOURS[colour]).save(buffer, "PNG")
    return buffer.getvalue()


def data_of(path, **given) -> Captioned:
    return Captioned(
        **{"source": "folder", "path": str(path), "image_size": 8, "channels": 3, "held_out": 0.4} | given
    )


def folder_of(folder, metadata: str | None = None, name: str = "metadata.csv"):
    folder.mkdir(exist_ok=True)
    for colour in COLOURS:
        (folder / f"{colour}.png").write_bytes(picture(colour))
        if metadata is None:
            (folder / f"{colour}.txt").write_text(f"a {colour}\n  square\n")
    if metadata is not None:
        (folder / name).write_text(metadata)
    return folder


def prepared(data: Captioned, out) -> dict[str, tuple[int, int, int]]:
    """caption -> the colour of its picture."""
    made = context_of(SimpleNamespace(data=data), "prepare", out)
    prepare.run(made)
    found = {}
    for split in ("train", "held_out"):
        images = PreparedImages.open(out, split)
        for pixels, label in zip(images.images, images.labels, strict=True):
            found[images.classes[label]] = tuple(pixels[0, 0].tolist())
    return found


WANTED = {f"a {colour} square": rgb for colour, rgb in COLOURS.items()}
CSV = "file_name,text\n" + "".join(f"{colour}.png,a {colour} square\n" for colour in COLOURS)
JSONL = "".join(json.dumps({"text": f"a {c} square", "file_name": f"{c}.png"}) + "\n" for c in COLOURS)


@pytest.mark.parametrize(
    "metadata, name",
    [(None, ""), (CSV, "metadata.csv"), (JSONL, "metadata.jsonl")],
    ids=["txt", "csv", "jsonl"],
)
def test_every_picture_of_a_folder_keeps_its_caption(tmp_path, metadata, name):
    assert prepared(data_of(folder_of(tmp_path / "pictures", metadata, name)), tmp_path / "out") == WANTED


BAD = {
    "empty": ('file_name,text\nred.png,"  "\n', "metadata.csv", "row 0.*caption in 'text' is empty"),
    "a list": ('{"file_name": "red.png", "text": ["a", "b"]}\n', "metadata.jsonl", "is a list"),
    "missing": ("file_name,text\nrad.png,a square\n", "metadata.csv", "rad.png.*not there.*\n.*red.png"),
    "twice": ("file_name,text\nred.png,a\nred.png,b\n", "metadata.csv", "as a row before does"),
}


@pytest.mark.parametrize("metadata, name, said", BAD.values(), ids=BAD)
def test_a_bad_row_is_refused_by_file_and_row_before_anything_runs(tmp_path, metadata, name, said):
    folder = folder_of(tmp_path, metadata, name)
    with pytest.raises(UserError, match=f"(?s)metadata.*{said}"):
        check(SimpleNamespace(data=data_of(folder)))


def test_bad_rows_are_skipped_and_listed_where_that_is_asked_for(tmp_path):
    folder = folder_of(tmp_path / "pictures", CSV + "green.png,\n")
    found = prepared(data_of(folder, on_bad_row="skip"), tmp_path / "out")
    assert found == WANTED
    [skipped] = json.loads((tmp_path / "out/ledger.json").read_text())["skipped"]
    assert skipped["row"] == 4 and "is empty" in skipped["reason"]


@pytest.mark.parametrize(
    "metadata, name, said",
    [
        (
            "file_name,caption\nred.png,a\n",
            "metadata.csv",
            "no column 'text'.*\n.*\nway out: data.caption_column",
        ),
        ("not json\n", "metadata.jsonl", "cannot be read"),
    ],
)
def test_a_metadata_file_without_its_columns_is_refused(tmp_path, metadata, name, said):
    with pytest.raises(UserError, match=said):
        open_source(data_of(folder_of(tmp_path, metadata, name)))


def test_a_picture_without_a_caption_beside_it_is_refused(tmp_path):
    folder = folder_of(tmp_path)
    (folder / "red.txt").unlink()
    with pytest.raises(UserError, match="red.png.*red.txt is not there"):
        check(SimpleNamespace(data=data_of(folder, held_out=0.5)))


def test_tables_give_captions_and_refuse_lists_and_blanks(tmp_path):
    cells = [picture(colour) for colour in COLOURS]
    captions = [f"a {colour} square" for colour in COLOURS]
    parquet.write_table(pyarrow.table({"image": cells, "text": captions}), tmp_path / "good.parquet")
    found = prepared(data_of(tmp_path / "good.parquet", source="parquet"), tmp_path / "out")
    assert found == WANTED
    lists = pyarrow.table({"image": cells, "text": [[caption] for caption in captions]})
    parquet.write_table(lists, tmp_path / "lists.parquet")
    with pytest.raises(UserError, match="holds list.*\nexpected: captions as text\n.*caption_column"):
        open_source(data_of(tmp_path / "lists.parquet", source="parquet"))
    blank = pyarrow.table({"image": cells, "text": [*captions[:3], " "]})
    parquet.write_table(blank, tmp_path / "blank.parquet")
    wrong = [row.wrong for row in open_source(data_of(tmp_path / "blank.parquet", source="parquet")).rows]
    assert wrong[:3] == ["", "", ""] and "no caption in column 'text'" in wrong[3]


LISTED = [
    {
        "name": "WAVING HAND SIGN",
        "image": "1f44b.png",
        "has_img_twitter": True,
        "skin_variations": {"1F3FB-1F3FF": {"image": "1f44b-2.png", "has_img_twitter": True}},
    },
    {"name": "PEAR", "image": "1f350.png", "has_img_twitter": False},
]


def emoji_package(directory):
    pictures = directory / emoji.PICTURES
    pictures.mkdir(parents=True)
    (directory / "emoji.json").write_text(json.dumps(LISTED))
    for name in ("1f44b.png", "1f44b-2.png"):
        (pictures / name).write_bytes(picture("red"))
    return directory


def test_an_emoji_and_its_skins_have_names_and_one_side_of_the_split(tmp_path):
    directory = emoji_package(tmp_path)
    source = open_source(data_of(directory, source="emoji"))
    captions = [source.classes[row.label] for row in source.rows]
    assert captions == ["waving hand sign", "waving hand sign, light and dark skin"]
    assert len({row.held_out for row in source.rows}) == 1
    assert all(isinstance(content, bytes) for content in source.read(source.rows))


def test_an_npm_package_is_taken_whole_or_not_at_all(tmp_path, monkeypatch):
    """Catches another archive than the pinned one, and a cache that is half of it."""
    made = tmp_path / "made"
    emoji_package(made / "package")
    archive = tmp_path / "archive.tgz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(made / "package", "package")
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "npm").write_text(f'#!/bin/sh\ncp {archive} "$4/emoji.tgz"\n')
    (bin_ / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    package = npm.Package(
        "emoji", "emoji-datasource", "1", digest_of(archive), 1, ("emoji.json", emoji.PICTURES)
    )
    assert npm.find(package, None) is None
    place = npm.download(package)
    assert npm.find(package, None) == place and (place / "emoji.json").is_file()
    other = npm.Package("emoji", "other", "1", "0" * 64, 1, ("emoji.json",))
    with pytest.raises(UserError, match="sha256.*\nexpected: 0000.*\nway out: npm pack other@1"):
        npm.download(other)
    assert not other.cached.exists()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="npm is not here"):
        npm.check_found(other, None)


def test_small_or_grey_scenes_are_refused():
    for given in ({"image_size": 16, "channels": 3}, {"image_size": 32, "channels": 1}):
        with pytest.raises(UserError, match="a scene has coloured shapes\nexpected: 24 pixels"):
            check(SimpleNamespace(data=Captioned(source="scenes", **given)))


def test_prepared_scenes_are_in_hashed_order(tmp_path):
    from tests.text_to_image.cases import scenes_of

    prepare.run(context_of(SimpleNamespace(data=scenes_of()), "prepare", tmp_path))
    images = PreparedImages.open(tmp_path, "train")
    assert len(np.unique(images.labels)) > 40 and "classes" not in json.loads(
        (tmp_path / "ledger.json").read_text()
    )


def test_an_archive_writes_nothing_outside_its_folder(tmp_path):
    """Catches a member that climbs out, and a link that a later member is written through."""
    (tmp_path / "a").write_text("inside")
    with tarfile.open(tmp_path / "bad.tgz", "w:gz") as file:
        for name in ("package/a", "../out", str(tmp_path / "absolute")):
            member = tarfile.TarInfo(name)
            member.size = 6
            file.addfile(member, io.BytesIO(b"inside"))
        link = tarfile.TarInfo("package/link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        file.addfile(link)
    npm._unpack(tmp_path / "bad.tgz", tmp_path / "root")
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()}
    assert found == {"a", "bad.tgz", "root/package/a"}
