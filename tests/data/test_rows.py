"""Catches a reader that loses, reorders or alters rows, takes the wrong files, or fails on a path without a word."""

import os

import pyarrow
import pytest
from pyarrow import parquet

from pipeline.data import sources
from pipeline.data.config import Chat, Corpus
from pipeline.data.sources import Document
from tests.data.reading import as_lines, read, write
from tests.helpers import refusal


def test_text_files_come_sorted_and_byte_for_byte(tmp_path):
    folder = write(
        tmp_path / "c", b__txt="b\r\n\tx\n", a_in_z__txt="\ufeffz", a_in_b__txt="\u00e9\x00", n__md="no"
    )
    expected = [
        Document("a/b.txt", "\u00e9\x00"),
        Document("a/z.txt", "z"),
        Document("b.txt", "b\r\n\tx\n"),
    ]
    assert read(Corpus(source="text", path=folder)) == (expected, [])


@pytest.mark.parametrize(
    ("path", "pattern", "keys"),
    [
        ("", "**/*.md", ["n.md"]),
        ("b.txt", "**/*.md", ["b.txt"]),
        ("a/*.txt", "**/*.md", ["b.txt", "z.txt"]),
        ("**/*.txt", "**/*.md", ["a/b.txt", "a/z.txt", "b.txt"]),
    ],
)
def test_a_path_is_a_folder_with_a_pattern_a_file_or_a_glob(tmp_path, path, pattern, keys):
    write(tmp_path / "c", b__txt="b", a_in_z__txt="z", a_in_b__txt="ab", n__md="n")
    (tmp_path / "c/folder.txt").mkdir()
    corpus = Corpus(source="text", path=os.path.join(tmp_path / "c", path), pattern=pattern)
    assert [document.key for document in read(corpus)[0]] == keys


def test_a_file_with_a_bracket_in_its_name_is_no_glob(tmp_path):
    folder = write(tmp_path / "c", **{"a[1]__txt": "a", "b__txt": "b"})
    assert read(Corpus(source="text", path=folder + "/a[1].txt"))[0] == [Document("a[1].txt", "a")]


def test_jsonl_parquet_and_datasets_hold_the_same_texts(tmp_path):
    texts = [f"text {number}\n\u00e9" for number in range(12)]
    write(tmp_path / "j", d__jsonl=as_lines(*({"text": text, "more": 1} for text in texts)))
    (tmp_path / "p").mkdir()
    parquet.write_table(
        pyarrow.table({"text": texts, "more": texts}), tmp_path / "p/d.parquet", row_group_size=5
    )
    for source, folder, key in (("jsonl", "j", "d.jsonl:{}"), ("parquet", "p", "d.parquet:{}")):
        found, skipped = read(Corpus(source=source, path=str(tmp_path / folder)))
        first = 1 if source == "jsonl" else 0
        assert found == [Document(key.format(first + number), text) for number, text in enumerate(texts)]
        assert skipped == []
    found, _ = read(Corpus(source="datasets", path=str(tmp_path / "p")))
    assert found == [Document(f"train:{number}", text) for number, text in enumerate(texts)]


def test_a_table_longer_than_a_batch_is_read_to_its_end(tmp_path):
    size = 65_536 + 1  # pyarrow's batch, and one row
    parquet.write_table(pyarrow.table({"text": ["x"] * size}), tmp_path / "d.parquet")
    found, _ = read(Corpus(source="parquet", path=str(tmp_path / "d.parquet")))
    assert [document.key for document in found] == [f"d.parquet:{number}" for number in range(size)]


def test_datasets_saved_to_disk_are_read_by_split(tmp_path):
    import datasets

    halves = {name: datasets.Dataset.from_dict({"body": [name]}) for name in ("train", "test")}
    datasets.DatasetDict(halves).save_to_disk(tmp_path / "d")
    corpus = Corpus(source="datasets", path=str(tmp_path / "d"), split="test", text_column="body")
    assert read(corpus)[0] == [Document("test:0", "test")]
    message = refusal(read, corpus.model_copy(update={"split": "trian"}))
    assert "no split 'trian'" in message
    assert "did you mean 'train'?" in message
    halves["test"].save_to_disk(tmp_path / "one")
    assert read(corpus.model_copy(update={"path": str(tmp_path / "one")}))[0] == [Document("test:0", "test")]


def test_an_unknown_split_of_data_files_is_refused(tmp_path):
    folder = write(tmp_path / "d", train__jsonl=as_lines({"text": "x"}))
    message = refusal(read, Corpus(source="datasets", path=folder, split="trian"))
    assert "cannot load split 'trian'" in message
    assert "train" in message.splitlines()[1]


def test_documents_are_read_as_they_are_asked_for(tmp_path):
    folder = write(tmp_path / "c", a__txt="fine", b__txt=b"\xff")
    assert next(sources.documents(Corpus(source="text", path=folder), [])) == Document("a.txt", "fine")


def test_reading_stops_at_the_limit(tmp_path):
    folder = write(tmp_path / "c", a__txt="1", b__txt="2", c__txt=b"\xff")
    found, _ = read(Corpus(source="text", path=folder, max_documents=2))
    assert [document.text for document in found] == ["1", "2"]


def test_a_missing_path_names_its_nearest_neighbour(tmp_path):
    write(tmp_path / "books", a__txt="a")
    for call in (sources.check_corpus, read):
        message = refusal(call, Corpus(source="text", path=str(tmp_path / "boks")))
        assert f"corpus.path: nothing at {tmp_path}/boks" in message
        assert "did you mean 'books'?" in message
    assert "is missing or empty" in refusal(
        sources.check_corpus, Corpus(source="text", path=str(tmp_path / "x/y"))
    )


def test_a_folder_where_nothing_matches_says_what_it_holds(tmp_path):
    folder = write(tmp_path / "c", a__md="a", b__md="b", c__rst="c")
    message = refusal(sources.check_corpus, Corpus(source="text", path=folder))
    assert "no file matches **/*.txt in" in message
    assert "holds: .md (2), .rst (1)" in message
    assert "no file matches" in refusal(sources.check_corpus, Corpus(source="text", path=folder + "/*.txt"))
    (tmp_path / "empty").mkdir()
    assert "holds: no file" in refusal(
        sources.check_corpus, Corpus(source="jsonl", path=str(tmp_path / "empty"))
    )


@pytest.mark.parametrize("source", ["text", "jsonl", "parquet", "datasets"])
def test_a_source_that_needs_a_path_says_so(source):
    assert "corpus.path" in refusal(sources.check_corpus, Corpus(source=source))
    if source != "text":
        assert "chat.path" in refusal(sources.check_chat, Chat(source=source))


def test_the_standard_library_takes_no_path():
    assert "takes no path" in refusal(sources.check_corpus, Corpus(source="stdlib", path="/usr/lib/python3"))


def test_a_dataset_is_a_folder_or_a_hub_name(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    sources.check_corpus(Corpus(source="datasets", path="owner/some-dataset"))
    sources.check_corpus(Corpus(source="datasets", path=str(tmp_path)))
    for path in ("./missing/folder", "one/two/three"):
        message = refusal(sources.check_corpus, Corpus(source="datasets", path=path))
        assert "neither a folder nor a name" in message


def test_a_file_that_must_not_be_read_is_refused(tmp_path, monkeypatch):
    folder = write(tmp_path / "c", a__txt="a", b__txt="b")
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "b.txt")
    assert f"no permission to read {folder}/b.txt" in refusal(
        sources.check_corpus, Corpus(source="text", path=folder)
    )


def test_a_file_of_another_kind_is_refused(tmp_path):
    folder = write(tmp_path / "c", d__parquet="not parquet")
    assert "is not a parquet file" in refusal(sources.check_corpus, Corpus(source="parquet", path=folder))
