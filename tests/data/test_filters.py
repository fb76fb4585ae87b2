"""Catches a filter that takes what it should leave, takes nothing, is not counted, or is not asked of held-out rows."""

import json

import pytest
from pydantic import ValidationError

from pipeline.data import sources
from pipeline.data.config import Corpus, Filters
from pipeline.data.conversation import Document
from pipeline.data.filters import EXAMPLES, Filtered, kept, repeated_lines, repeated_phrases, symbols
from pipeline.data.overlap import Alike
from pipeline.report import render
from pipeline.run import artifact
from pipeline.run.errors import UserError
from pipeline.run.stage import open_recipe
from tests.faults.malformed import TREE, good
from tests.whole.command import headwater

PROSE = (
    "The river rises in the hills, runs south through two towns, and meets the sea beyond the last bridge."
)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("words alone", 0.0),
        ("a+b", 1 / 3),
        ("__x", 2 / 3),
        ("é ß 漢字", 0.0),
        ("!!!", 1.0),
        (" \n", 0.0),
    ],
)
def test_symbols_are_neither_letters_nor_digits(text, share):
    assert symbols(text) == share


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0.0), ("one\ntwo", 0.0), ("same\n  same\nother", 4 / 13), ("x\n\n\n\nx\nx", 2 / 3)],
)
def test_lines_are_the_same_but_for_space_around_them(text, share):
    assert repeated_lines(text) == share


def test_words_of_phrases_that_came_before_count_once():
    words = "a b c d e"
    assert repeated_phrases(words) == 0.0
    assert repeated_phrases(f"{words} {words}") == 5 / 10
    assert repeated_phrases(f"{words} x {words}") == 5 / 11
    assert repeated_phrases(f"{words} f {words} f") == 6 / 12  # two phrases that overlap
    assert repeated_phrases("no no no no no no no") == 6 / 7  # its second phrase begins with its second word


@pytest.mark.parametrize(
    ("filters", "taken", "left"),
    [
        ({"min_characters": 10}, "too short", PROSE),
        ({"max_characters": 150}, PROSE * 2, PROSE),
        ({"keep": r"\briver\b"}, "no water here", PROSE),
        ({"drop": [r"(?i)lorem ipsum", r"^\d"]}, "1. Lorem", PROSE),
        ({"max_symbols": 0.2}, "}{){[}]; //!!", PROSE),
        ({"max_repeated_lines": 0.3}, f"{PROSE}\n" * 3, PROSE),
        ({"max_repeated_phrases": 0.3}, PROSE * 3, PROSE),
        (
            {"languages": ["en"]},
            "Der Fluss entspringt in den Hügeln und fließt durch zwei Städte nach Süden.",
            PROSE,
        ),
    ],
)
def test_each_filter_takes_what_it_names_and_says_so(filters, taken, left):
    found = Filtered()
    assert kept(Filters(**filters), "left", left, found) == left
    assert not found.counts
    assert kept(Filters(**filters), "taken", taken, found) is None
    [(reason, count)] = found.counts.items()
    assert reason.split()[0] == next(iter(filters)) and count == 1
    assert found.examples[reason][0]["key"] == "taken" and found.characters[reason] == len(taken)


def test_a_few_of_what_a_filter_took_are_kept_and_all_of_it_is_counted():
    found = Filtered()
    for number in range(EXAMPLES + 5):
        kept(Filters(min_characters=1000), str(number), PROSE, found)
    assert len(found.examples["min_characters"]) == EXAMPLES
    assert found.notes == {
        f"documents left out by filters.min_characters, {len(PROSE) * (EXAMPLES + 5):,} characters": EXAMPLES
        + 5
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to ann.b+c@mail.example.org, please", "write to <email>, please"),
        ("from 192.168.0.255 and 8.8.8.8.", "from <ip> and <ip>."),
        ("version 1.2.3 or 1.2.3.4.5, 300.1.1.1", "version 1.2.3 or 1.2.3.4.5, 300.1.1.1"),
        ("call +44 (20) 7946-0958 now", "call <phone> now"),
        ("x + 12345678 = y; 1 + 2345", "x + 12345678 = y; 1 + 2345"),
        ("@decorator at a@b", "@decorator at a@b"),
    ],
)
def test_private_details_are_masked_and_what_looks_like_them_is_not(text, expected):
    found = Filtered()
    assert kept(Filters(mask=["email", "ip", "phone"]), "key", text, found) == expected
    assert sum(found.masked.values()) == expected.count("<")


def test_nearly_the_same_document_is_known_again():
    alike = Alike(0.7)
    words = [f"word{number}" for number in range(300)]
    changed = [*words[:150], "another", *words[151:]]  # 5 of 296 phrases differ: 0.967
    half = [*words[:150], *(f"new{number}" for number in range(150))]  # 0.33
    rows = [
        Document(str(n), " ".join(each))
        for n, each in enumerate((words, changed, half, ["short"], ["short"]))
    ]
    assert [alike(row) for row in rows] == [False, True, False, False, True]


@pytest.mark.parametrize(
    "filters", [{"keep": "("}, {"drop": ["[a"]}, {"mask": ["name"]}, {"max_symbols": 1.5}]
)
def test_filters_that_make_no_sense_are_refused(filters):
    with pytest.raises(ValidationError):
        Corpus(source="stdlib", filters=filters)


def test_a_language_that_nothing_tells_is_refused():
    with pytest.raises(UserError, match="languages: xx is no language that py3langid tells"):
        sources.check_corpus(Corpus(source="stdlib", filters={"languages": ["en", "xx"]}))


def test_a_recipe_filters_both_splits_of_each_source_by_its_own_settings(tmp_path):
    """And the tokenizer learns from what is left."""
    rows = [
        f"{PROSE} It is number {n} of many, which {'!?' * 40 if n % 4 == 0 else 'says so'}."
        for n in range(60)
    ]
    rows += [row.replace("last", "first") for row in rows[1:40:4]]  # nearly the same
    for name in "ab":
        lines = [json.dumps({"text": f"{row} {name} x@y.example"}) + "\n" for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    parts = [{"source": "jsonl", "path": str(tmp_path / f"{name}.jsonl"), "held_out": 0.2} for name in "ab"]
    parts[0]["filters"] = {"max_symbols": 0.3, "mask": ["email"]}
    arguments = good(tmp_path, TREE | {"corpus": {"sources": parts, "near_duplicates": 0.4}})
    for stage in ("tokenizer", "tokenize"):
        done = headwater("stage", stage, *arguments)
        assert done.code == 0, done.err
    made = tmp_path / "run" / "tokenize"
    notes = json.loads((made / "ledger.json").read_text())["notes"]
    [left_out] = [count for words, count in notes.items() if "filters.max_symbols" in words]
    assert left_out == 15 and notes["email masked"] == 55
    assert "  15 x documents left out by filters.max_symbols" in done.out
    held = [json.loads(line) for line in (made / "documents.held_out.jsonl").read_text().splitlines()]
    corpus = open_recipe(tmp_path / "recipe.yaml", [])[0].corpus
    again = [(row.key, row.text) for row in sources.held_out_rows(corpus)]
    assert [(row["key"].partition("/")[2], row["text"]) for row in held] == again
    assert all(("<email>" in row["text"]) == row["key"].startswith("0/") for row in held)
    assert {row["key"][0] for row in held if "!?" in row["text"]} == {"1"}
    examples = [json.loads(line) for line in (made / "filtered.jsonl").read_text().splitlines()]
    assert len(examples) == 15 and all(
        row["reason"] == "max_symbols" and "!?" in row["text"] for row in examples
    )
    assert all("<email>" in row["text"] for row in examples)  # what is masked is not kept beside the data
    page = render("run", {}, [artifact.read(made)], {})
    assert "Documents left out" in page and page.count("&lt;email&gt;") == 15
    metrics = json.loads((made / "artifact.json").read_text())["metrics"]
    near = notes["training documents left out: nearly the same came before"]
    documents = metrics["documents.train.documents"] + metrics["documents.held_out.documents"]
    assert near >= 1 and documents == 2 * len(rows) - 15 - near
