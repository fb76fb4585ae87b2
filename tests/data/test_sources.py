"""Catches a bad row that is not named or not counted, a check that reads all or nothing, a key on both sides."""

import hashlib
import itertools
import json
import os

import pyarrow
import pytest
from pyarrow import parquet

from pipeline.data import sources
from pipeline.data.config import Chat, Corpus
from pipeline.data.sources import Conversation, Document, is_held_out
from tests.data.reading import as_lines, read, write
from tests.helpers import refusal

MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
GOOD = {"text": "good"}
BAD_LINES = {
    "no JSON": ("{oops", "not JSON: Expecting property name"),
    "an empty line": ("", "empty"),
    "no object": ("[1]", "holds [1]"),
    "no such column": ('{"txet": "x"}', "no column 'text'"),
    "an empty text": ('{"text": " "}', "column 'text' holds an empty text"),
    "a number": ('{"text": 5}', "column 'text' holds 5"),
    "a null": ('{"text": null}', "column 'text' holds None"),
    "half a surrogate pair": ('{"text": "\\ud800"}', "'\\ud800' is half of a surrogate pair"),
    "bytes": (b'{"text": "\xe9"}', "byte 0xe9 at offset 10 is not UTF-8"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_named_or_skipped_and_counted(tmp_path, kind):
    line, reason = BAD_LINES[kind]
    line = line if isinstance(line, bytes) else line.encode()
    good = json.dumps(GOOD).encode()
    folder = write(tmp_path / "c", d__jsonl=good + b"\n" + line + b"\n" + good)
    corpus = Corpus(source="jsonl", path=folder)
    message = refusal(read, corpus)
    assert message.startswith(f"{tmp_path}/c/d.jsonl:2: {reason}")
    assert "corpus.on_bad_row=skip" in message
    assert refusal(sources.check_corpus, corpus) == message
    found, skipped = read(corpus.model_copy(update={"on_bad_row": "skip"}))
    assert found == [Document("d.jsonl:1", "good"), Document("d.jsonl:3", "good")]
    [row] = skipped
    assert (row["key"], row["file"], row["line"]) == ("d.jsonl:2", f"{tmp_path}/c/d.jsonl", 2)
    assert row["reason"].startswith(reason)


def test_the_nearest_column_is_named(tmp_path):
    folder = write(tmp_path / "c", d__jsonl=as_lines({"txet": "x", "id": 1}))
    assert "did you mean 'txet'?" in refusal(read, Corpus(source="jsonl", path=folder))
    parquet.write_table(pyarrow.table({"txet": ["x"]}), tmp_path / "c/d.parquet")
    for source in ("parquet", "datasets"):
        path = str(tmp_path / "c/d.parquet") if source == "parquet" else str(tmp_path / "c")
        message = refusal(read, Corpus(source=source, path=path, on_bad_row="skip"))
        assert "no column 'text'" in message
        assert "did you mean 'txet'?" in message
        assert "corpus.text_column=NAME" in message


@pytest.mark.parametrize(
    ("content", "reason", "line"),
    [(b"one\ntwo\nx\xff", "byte 0xff at offset 9 is not UTF-8", 3), (b" \n", "the file is empty", None)],
)
def test_a_bad_text_file_is_named_or_skipped_and_counted(tmp_path, content, reason, line):
    folder = write(tmp_path / "c", a__txt="good", b__txt=content)
    corpus = Corpus(source="text", path=folder)
    place = f"{folder}/b.txt" if line is None else f"{folder}/b.txt:{line}"
    assert refusal(read, corpus).startswith(f"{place}: {reason}")
    found, skipped = read(corpus.model_copy(update={"on_bad_row": "skip"}))
    assert found == [Document("a.txt", "good")]
    assert [(row["key"], row["line"]) for row in skipped] == [("b.txt", line)]


def test_a_bad_row_of_a_table_is_named_or_skipped_and_counted(tmp_path):
    parquet.write_table(pyarrow.table({"text": ["good", None, "good"]}), tmp_path / "d.parquet")
    corpus = Corpus(source="parquet", path=str(tmp_path / "d.parquet"))
    assert refusal(read, corpus).startswith(f"{tmp_path}/d.parquet row 1: column 'text' holds None")
    found, skipped = read(corpus.model_copy(update={"on_bad_row": "skip"}))
    assert [document.key for document in found] == ["d.parquet:0", "d.parquet:2"]
    assert [row["line"] for row in skipped] == [1]


def test_an_empty_lines_file_beside_others_is_named(tmp_path):
    folder = write(tmp_path / "c", a__jsonl="", b__jsonl=as_lines(GOOD))
    assert refusal(read, Corpus(source="jsonl", path=folder)).startswith(f"{folder}/a.jsonl: empty")


def test_nothing_left_after_skipping_is_an_error(tmp_path):
    folder = write(tmp_path / "c", d__jsonl="{oops\n{oops\n")
    message = refusal(read, Corpus(source="jsonl", path=folder, on_bad_row="skip"))
    assert "2 rows skipped, the first: not JSON" in message


BAD_MESSAGES = {
    "text": ("hi", "column 'messages' holds 'hi'"),
    "nothing": ([], "column 'messages' holds []"),
    "no object": (["hi"], "message 0 is 'hi'"),
    "no content": ([{"role": "user"}], "message 0 is {'role': 'user'}"),
    "an unknown role": ([{"role": "assistent", "content": "x"}], "message 0 has the role 'assistent'"),
    "an empty content": (
        [{"role": "user", "content": " "}, MESSAGES[1]],
        "message 0 has the content an empty text",
    ),
    "half a surrogate pair": (
        [{"role": "user", "content": "\ud800"}],
        "'\\ud800' is half of a surrogate pair",
    ),
    "nobody to learn from": ([MESSAGES[0]], "no message is the assistant's"),
    "a late system message": ([*MESSAGES, {"role": "system", "content": "x"}], "message 2 is the system's"),
}


@pytest.mark.parametrize("kind", BAD_MESSAGES)
def test_messages_of_another_shape_are_named_or_skipped(tmp_path, kind):
    messages, reason = BAD_MESSAGES[kind]
    folder = write(tmp_path / "c", d__jsonl=as_lines({"messages": MESSAGES}, {"messages": messages}))
    chat = Chat(source="jsonl", path=folder)
    message = refusal(read, chat)
    assert message.startswith(f"{folder}/d.jsonl:2: {reason}")
    assert "chat.on_bad_row=skip" in message
    found, skipped = read(chat.model_copy(update={"on_bad_row": "skip"}))
    assert found == [Conversation("d.jsonl:1", tuple(MESSAGES))]
    assert [row["line"] for row in skipped] == [2]


def test_messages_of_tables_keep_role_and_content_alone(tmp_path):
    rows = [[{**message, "name": None} for message in MESSAGES]] * 2
    parquet.write_table(pyarrow.table({"turns": rows}), tmp_path / "d.parquet")
    for source, path, key in (("parquet", "d.parquet", "d.parquet:{}"), ("datasets", "", "train:{}")):
        chat = Chat(source=source, path=os.path.join(tmp_path, path).rstrip("/"), messages_column="turns")
        assert read(chat)[0] == [Conversation(key.format(number), tuple(MESSAGES)) for number in (0, 1)]


def test_the_split_is_pinned_and_goes_by_the_part_before_the_colons():
    assert [key for key in "abcdefghijklmnop" if is_held_out(key, 0.1)] == ["d", "j", "p"]
    shares = (0.1, 0.2)
    held = [{key for key in map(str, range(10_000)) if is_held_out(key, share)} for share in shares]
    assert held[0] < held[1]
    assert [len(keys) for keys in held] == [1018, 2052]
    assert all(is_held_out(f"a/b.py::{name}", 0.5) == is_held_out("a/b.py", 0.5) for name in ("x", "y.z", ""))


def test_the_check_reads_the_first_rows_alone(tmp_path):
    lines = as_lines(*[GOOD] * sources.FIRST_ROWS)
    corpus = Corpus(source="jsonl", path=write(tmp_path / "c", d__jsonl=lines + "{oops\n"))
    assert refusal(sources.check_corpus, corpus) is None
    assert f"d.jsonl:{sources.FIRST_ROWS + 1}: not JSON" in refusal(read, corpus)


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_the_check_accepts_what_on_bad_row_accepts(tmp_path, on_bad_row):
    corpus = Corpus(source="jsonl", path=write(tmp_path / "c", d__jsonl="{oops\n"), on_bad_row=on_bad_row)
    if on_bad_row == "error":
        assert "not JSON" in refusal(sources.check_corpus, corpus)
    else:
        assert refusal(sources.check_corpus, corpus) is None


def test_the_default_sources_pass_their_check():
    assert refusal(sources.check_corpus, Corpus(source="stdlib")) is None
    assert refusal(sources.check_chat, Chat(source="stdlib_docstrings")) is None


def test_a_fingerprint_is_of_the_sorted_names_and_bytes(tmp_path):
    folder = write(tmp_path / "c", b__txt="bb", a__txt="a")
    lines = "".join(
        f"{name}\0{hashlib.sha256(content).hexdigest()}\n"
        for name, content in (("a.txt", b"a"), ("b.txt", b"bb"))
    )
    expected = {"files": 2, "bytes": 3, "sha256": hashlib.sha256(lines.encode()).hexdigest()}
    assert sources.fingerprint(Corpus(source="text", path=folder)) == expected


def test_a_fingerprint_changes_with_a_byte_or_a_name_and_not_with_the_place(tmp_path):
    variants = {
        "same": {"a__txt": "a", "b__txt": "b"},
        "elsewhere": {"b__txt": "b", "a__txt": "a", "c__md": "not read"},
        "byte": {"a__txt": "a", "b__txt": "c"},
        "name": {"a__txt": "a", "c__txt": "b"},
        "swapped": {"a__txt": "b", "b__txt": "a"},
    }
    prints = {
        name: sources.fingerprint(Corpus(source="text", path=write(tmp_path / name, **files)))["sha256"]
        for name, files in variants.items()
    }
    assert prints["same"] == prints["elsewhere"]
    others = [prints[name] for name in ("same", "byte", "name", "swapped")]
    assert all(a != b for a, b in itertools.combinations(others, 2))


def test_a_fingerprint_of_a_dataset_is_of_its_rows(tmp_path):
    prints = []
    for number, text in enumerate(("x", "x", "y")):
        folder = write(tmp_path / str(number), train__jsonl=as_lines({"text": text}))
        prints.append(sources.fingerprint(Corpus(source="datasets", path=folder)))
    assert prints[0] == prints[1]
    assert prints[0]["rows"] == 1
    assert prints[0]["sha256"] != prints[2]["sha256"]


def test_the_standard_library_has_one_fingerprint_for_both_sections():
    of_corpus = sources.fingerprint(Corpus(source="stdlib"))
    assert of_corpus == sources.fingerprint(Chat(source="stdlib_docstrings"))
    assert of_corpus["bytes"] > 5_000_000
