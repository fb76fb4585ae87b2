"""Catches a source that is left out, split by another's share, or repeated otherwise than it says."""

import json

import pytest
from pydantic import ValidationError

from pipeline.data import sources
from pipeline.data.config import Chat
from tests.data.reading import as_lines, read, write
from tests.helpers import refusal

ROWS = [{"prompt": f"what is {n}?", "completion": f"thing {n}"} for n in range(200)]
OTHERS = [
    {"messages": [{"role": "user", "content": f"so {n}"}, {"role": "assistant", "content": "yes"}]}
    for n in range(50)
]


@pytest.fixture
def chat(tmp_path):
    """`chat(**of_the_second)`: two files of two formats, the second with settings of its own."""
    folder = write(tmp_path / "c", a__jsonl=as_lines(*ROWS), b__json=json.dumps(OTHERS))

    def make(**second):
        parts = (
            {"path": f"{folder}/a.jsonl", "held_out": 0.5},
            {"path": f"{folder}/b.json", "held_out": 0.1, **second},
        )
        return Chat(sources=parts)

    return make


def test_sources_come_one_after_the_other_in_formats_of_their_own(chat):
    found, _ = read(chat())
    assert [row.key for row in found] == [
        *(f"0/a.jsonl:{n}" for n in range(1, 201)),
        *(f"1/b.json:{n}" for n in range(50)),
    ]
    assert found[-1].messages[0]["content"] == "so 49"
    assert (
        sources.format_of(chat())
        == "prompt and completion (2 messages in the first); messages (2 messages in the first)"
    )


def test_each_is_split_by_its_own_share_as_it_would_be_alone(chat):
    section = chat()
    found, _ = read(section)
    for number, part in enumerate(section.sources):
        rows = [row.key.split("/", 1)[1] for row in found if row.key.startswith(f"{number}/")]
        together = [key for key in rows if sources.goes_to_held_out(section, f"{number}/{key}")]
        assert together == [key for key in rows if sources.is_held_out(key, part.held_out)]
        assert together


@pytest.mark.parametrize(("repeats", "total"), [(1.0, 50), (3.0, 150), (0.5, 25), (2.5, 125)])
def test_rows_are_there_as_often_as_their_source_says(chat, repeats, total):
    section = chat(repeats=repeats)
    times = [sources.repeats_of(section, f"1/b.json:{n}") for n in range(50)]
    assert set(times) <= {int(repeats), int(repeats) + 1}
    assert sum(times) == pytest.approx(total, abs=10)
    assert sources.repeats_of(section, "0/a.jsonl:3") == 1
    assert times == [sources.repeats_of(section, f"1/b.json:{n}") for n in range(50)]


def test_what_is_wrong_in_one_is_found_before_anything_is_read(chat, tmp_path):
    (tmp_path / "c" / "b.json").write_text("{")
    assert "b.json is not JSON" in refusal(sources.check_chat, chat())


def test_the_bytes_of_all_are_followed_and_named(chat):
    assert set(sources.outside_files(chat())) == {"0/a.jsonl", "1/b.json"}
    parts = sources.fingerprint(chat())["sources"]
    assert [part["files"] for part in parts] == [1, 1] and parts[0]["sha256"] != parts[1]["sha256"]


def test_held_out_rows_are_those_of_all(chat):
    section = chat()
    held = list(sources.held_out_rows(section))
    found, _ = read(section)
    assert len(held) == sum(sources.goes_to_held_out(section, row.key) for row in found)


def test_each_says_what_becomes_of_its_bad_rows(chat):
    section = chat(on_bad_row="skip")
    assert [sources.on_bad_row_of(section, key) for key in ("0/a.jsonl:1", "1/b.json:1")] == ["error", "skip"]


def test_settings_beside_a_list_are_refused():
    with pytest.raises(ValidationError, match="each has settings of its own: leave out held_out, path"):
        Chat(path="x", held_out=0.2, sources=({"path": "y"},))
