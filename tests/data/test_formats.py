"""Catches chat data in a usual shape or file that is refused, read otherwise than meant, or loses a part unseen."""

import bz2
import csv
import gzip
import io
import json
import lzma

import pyarrow
import pytest
from pyarrow import parquet

from pipeline.data import sources
from pipeline.data.config import Chat, Corpus
from pipeline.data.conversation import Conversation
from tests.data.reading import read, write
from tests.helpers import refusal


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


SYSTEM = {"role": "system", "content": "Be brief."}
PAIR = (user("Is it cold?"), assistant("Yes."))
FUNCTION = {"name": "weather", "description": "", "parameters": {"type": "object", "required": ["city"]}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
CALLED = (PAIR[0], assistant("", tool_calls=[CALL]), {"role": "tool", "content": "-3"}, PAIR[1])
# name: (the row of a file, its messages, its tools)
SHAPES = {
    "messages": ({"messages": list(PAIR)}, PAIR, ()),
    "messages as JSON text": ({"messages": json.dumps(PAIR)}, PAIR, ()),
    "messages beside others": ({"id": 7, "messages": [{**PAIR[0], "date": "x"}, PAIR[1]]}, PAIR, ()),
    "a developer": (
        {"messages": [{"role": "developer", "content": "Be brief."}, *PAIR]},
        (SYSTEM, *PAIR),
        (),
    ),
    "a system column": ({"system": "Be brief.", "messages": list(PAIR)}, (SYSTEM, *PAIR), ()),
    "parts": (
        {
            "messages": [
                user([{"type": "text", "text": "Is it "}, {"type": "text", "text": "cold?"}]),
                PAIR[1],
            ]
        },
        PAIR,
        (),
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "Is it cold?"}, {"from": "gpt", "value": "Yes."}]},
        PAIR,
        (),
    ),
    "sharegpt with a call": (
        {
            "conversations": [
                {"from": "human", "value": "Is it cold?"},
                {"from": "function_call", "value": json.dumps(CALL["function"])},
                {"from": "observation", "value": "-3"},
                {"from": "gpt", "value": "Yes."},
            ],
            "tools": json.dumps([FUNCTION]),
        },
        CALLED,
        (TOOL,),
    ),
    "prompt and completion": ({"prompt": "Is it cold?", "completion": "Yes."}, PAIR, ()),
    "question and answer": ({"question": "Is it cold?", "answer": "Yes."}, PAIR, ()),
    "conversational prompt": (
        {"prompt": [SYSTEM, *PAIR, user("So?")], "completion": [assistant("Stay.")]},
        (SYSTEM, PAIR[0], {**PAIR[1], "train": False}, user("So?"), assistant("Stay.")),
        (),
    ),
    "alpaca": (
        {"instruction": "Is it", "input": "cold?", "output": "Yes."},
        (user("Is it\n\ncold?"), PAIR[1]),
        (),
    ),
    "alpaca without input": ({"instruction": "Is it cold?", "input": "", "output": "Yes."}, PAIR, ()),
    "alpaca with history": (
        {
            "instruction": "So?",
            "output": "Stay.",
            "history": [["Is it cold?", "Yes."]],
            "system": "Be brief.",
        },
        (SYSTEM, *PAIR, user("So?"), assistant("Stay.")),
        (),
    ),
    "calls": ({"messages": list(CALLED), "tools": [TOOL]}, CALLED, (TOOL,)),
    "arguments as JSON text": (
        {
            "messages": [
                PAIR[0],
                {
                    "role": "assistant",
                    "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}],
                },
                *CALLED[2:],
            ],
            "tools": [FUNCTION],
        },
        CALLED,
        (TOOL,),
    ),
    "an old function_call": (
        {
            "messages": [
                PAIR[0],
                {"role": "assistant", "content": None, "function_call": CALL["function"]},
                {"role": "function", "content": "-3"},
                PAIR[1],
            ]
        },
        CALLED,
        (),
    ),
    **{
        f"{name}": (
            {"messages": [PAIR[0], assistant("Yes.", **{name: "It is."})]},
            (PAIR[0], assistant("Yes.", reasoning_content="It is.")),
            (),
        )
        for name in ("reasoning_content", "thinking", "reasoning")
    },
    "what is not taught": (
        {"messages": [*PAIR, user("So?"), assistant("Stay.", train=False)]},
        (*PAIR, user("So?"), assistant("Stay.", train=False)),
        (),
    ),
}
FLAT = {name: shape for name, shape in SHAPES.items() if all(isinstance(v, str) for v in shape[0].values())}


def packed(row: dict, ending: str) -> bytes:
    """A file of twice this row."""
    kind, _, squeezed = ending.partition(".")
    if kind == "jsonl":
        content = 2 * (json.dumps(row) + "\n").encode()
    elif kind == "json":
        content = json.dumps([row, row], indent=1).encode()
    elif kind in ("csv", "tsv"):
        text = io.StringIO()
        table = csv.DictWriter(text, list(row), delimiter="," if kind == "csv" else "\t")
        table.writeheader()
        table.writerows([row, row])
        content = text.getvalue().encode()
    else:
        buffer = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist([row, row]), buffer)
        content = buffer.getvalue()
    squeeze = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "": bytes}
    if squeezed == "zst":
        return pyarrow.Codec("zstd").compress(content, asbytes=True)
    return squeeze[squeezed](content)


def conversations(path, **settings) -> list[Conversation]:
    found, skipped = read(Chat(path=str(path), **settings))
    assert not skipped
    return found


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_known_by_its_columns(tmp_path, shape, ending):
    row, messages, tools = SHAPES[shape]
    if (shape, ending) == ("parts", "parquet"):
        pytest.skip("a column of Parquet holds texts or lists, not both")
    (tmp_path / f"d.{ending}").write_bytes(packed(row, ending))
    first = 1 if ending == "jsonl" else 0
    expected = [Conversation(f"d.{ending}:{first + n}", messages, tools) for n in (0, 1)]
    assert conversations(tmp_path / f"d.{ending}") == expected
    assert conversations(tmp_path) == expected


@pytest.mark.parametrize("squeezed", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_every_kind_of_file_squeezed_or_not(tmp_path, kind, squeezed):
    assert FLAT
    for number, (row, messages, _) in enumerate(FLAT.values()):
        path = tmp_path / f"{number}.{kind}{squeezed}"
        path.write_bytes(packed(row, f"{kind}{squeezed}"))
        assert [found.messages for found in conversations(path)] == [messages, messages]


def test_texts_are_documents_of_which_all_is_taught(tmp_path):
    folder = write(tmp_path / "c", d__csv="text\nso it is\n")
    [found] = conversations(folder)
    assert (found.messages, found.text) == ((), "so it is")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_marked_files_are_read_as_what_they_are(tmp_path, encoding, kind):
    row = {"prompt": "Is it “cold”?", "completion": "Yes."}
    text = packed(row, kind).decode()
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / f"d.{kind}").write_bytes((mark + text).encode(encoding))
    assert [found.messages[0]["content"] for found in conversations(tmp_path)] == ["Is it “cold”?"] * 2


def test_marked_text_files(tmp_path):
    files = {"a__txt": "ä".encode("utf-16"), "b__txt": "ä".encode("utf-8-sig"), "c__txt": "ä".encode()}
    found, _ = read(Corpus(source="text", path=write(tmp_path / "c", **files)))
    assert [document.text for document in found] == ["ä"] * 3


def test_a_corpus_may_be_any_table(tmp_path):
    for kind in ("jsonl", "json", "csv", "parquet"):
        (tmp_path / f"d.{kind}.gz").write_bytes(packed({"text": "so", "id": "1"}, f"{kind}.gz"))
    found, _ = read(Corpus(source="auto", path=str(tmp_path)))
    assert [document.text for document in found] == ["so"] * 8


# name: (row, what the message says after the file and the row)
REFUSED = {
    "no known columns": ({"foo": 1}, "the columns foo make no known chat format"),
    "an image": (
        {"messages": [user([{"type": "image", "image": "x"}]), PAIR[1]]},
        "message 0 has the part {'type': 'image'",
    ),
    "a result without a call": (
        {"messages": [PAIR[0], {"role": "tool", "content": "x"}, PAIR[1]]},
        "message 1 is a tool's result without a call",
    ),
    "tools that are no JSON": ({"messages": list(PAIR), "tools": "{oops"}, "column 'tools': no JSON"),
    "tools without a name": ({"messages": list(PAIR), "tools": [{"x": 1}]}, "column 'tools' holds {'x': 1}"),
    "arguments that are no JSON": (
        {"messages": [PAIR[0], assistant("", tool_calls=[{"name": "f", "arguments": "{"}])]},
        "message 1: the arguments of f: no JSON",
    ),
    "arguments without names": (
        {"messages": [PAIR[0], assistant("", tool_calls=[{"name": "f", "arguments": "[1]"}])]},
        "message 1 calls f with [1]",
    ),
    "two systems": (
        {"system": "x", "messages": [SYSTEM, *PAIR]},
        "both a column 'system' and a system message",
    ),
    "train that is no truth": (
        {"messages": [PAIR[0], assistant("x", train="no")]},
        "message 1 has train: 'no'",
    ),
    "a history of no pairs": (
        {"instruction": "x", "output": "y", "history": ["z"]},
        "history holds 'z'",
    ),
    "a number": ({"prompt": "x", "completion": 5}, "column 'completion' holds 5"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_named(tmp_path, kind):
    row, reason = REFUSED[kind]
    (tmp_path / "d.json").write_text(json.dumps([row]))
    message = refusal(read, Chat(path=str(tmp_path)))
    assert message.startswith(f"{tmp_path}/d.json row 0: {reason}")
    assert "expected: " in message or reason.endswith("no JSON") or "no JSON" in message
    assert "chat.on_bad_row=skip" in message
    assert refusal(sources.check_chat, Chat(path=str(tmp_path))) == message


def test_a_row_of_another_format_is_named(tmp_path):
    rows = [{"prompt": "x", "completion": "y"}, {"instruction": "x", "output": "y"}]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    message = refusal(read, Chat(path=str(tmp_path)))
    assert (
        "d.json row 1: no column 'prompt' or 'question' or 'query', which prompt_completion rows have"
        in message
    )
    assert "one section has rows of one format" in message


def test_a_format_that_is_named_is_required(tmp_path):
    (tmp_path / "d.json").write_text(json.dumps([{"prompt": "x", "completion": "y", "instruction": "x"}]))
    assert "which alpaca rows have" in refusal(read, Chat(path=str(tmp_path), format="alpaca"))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("d.json", b'{"messages": []}', "expected: an array of objects"),
        ("d.json", b"[", "is not JSON"),
        ("d.csv", b'prompt,completion\n"x,y\n', "d.csv:2 is not CSV"),
        ("d.csv", b"prompt,completion\nx,\xff\n", "is not CSV: 'utf-8' codec can't decode byte 0xff"),
        ("d.csv", b"prompt,completion\nx,y,z\n", "d.csv:2: holds ['x', 'y', 'z']"),
        ("d.parquet", b"PAR", "is not a parquet file"),
        ("d.txt", b"x", "no file matches"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    assert reason in refusal(read, Chat(path=str(tmp_path)))


def test_a_file_without_an_ending_needs_its_kind(tmp_path):
    (tmp_path / "data").write_bytes(packed({"prompt": "x", "completion": "y"}, "jsonl"))
    assert "chat.source=jsonl, json, csv or parquet" in refusal(read, Chat(path=str(tmp_path / "data")))
    assert len(conversations(tmp_path / "data", source="jsonl")) == 2
