"""Catches a mixture of corpora that loses a source, counts one wrongly, or lets a held-out document be learnt."""

import json

import pytest
from pydantic import ValidationError

from pipeline.data import sources
from pipeline.data.config import Corpus
from pipeline.publish.model_card import settings
from pipeline.run.stage import open_recipe
from tests.faults.malformed import TREE, good
from tests.whole.command import headwater


@pytest.fixture
def mixture(tmp_path):
    """A folder of texts and a table with its own column, share and repeats."""
    (tmp_path / "texts").mkdir()
    for number in range(12):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"a text, number {number}. " * 5)
    rows = [json.dumps({"body": f"a row that says {number} and no more. " * 4}) + "\n" for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    return [
        {"source": "text", "path": str(tmp_path / "texts"), "held_out": 0.3},
        {"source": "jsonl", "path": str(tmp_path / "rows.jsonl"), "text_column": "body", "held_out": 0.2}
        | {"repeats": 2.5},
    ]


def test_documents_come_source_by_source_and_keep_their_own_share(mixture):
    corpus = Corpus(sources=mixture)
    found = list(sources.documents(corpus, []))
    assert len(found) == 32 and [key[0] for key in (row.key for row in found)] == ["0"] * 12 + ["1"] * 20
    alone = [Corpus(**part) for part in mixture]
    for number, part in enumerate(alone):
        keys = [row.key for row in sources.documents(part, [])]
        assert [row.key for row in found if row.key.startswith(f"{number}/")] == [f"{number}/{key}" for key in keys]
        held = [sources.is_held_out(key, part.held_out) for key in keys]
        assert [sources.goes_to_held_out(corpus, f"{number}/{key}") for key in keys] == held
        assert 0 < sum(held) < len(held)
    assert {sources.repeats_of(corpus, row.key) for row in found[:12]} == {1}
    assert {sources.repeats_of(corpus, row.key) for row in found[12:]} == {2, 3}
    assert sources.fingerprint(corpus) == {"sources": [sources.fingerprint(part) for part in alone]}
    assert len(sources.outside_files(corpus)) == 13


def test_one_recipe_trains_on_all_and_says_how_much_of_each(mixture, tmp_path):
    arguments = good(tmp_path, TREE | {"corpus": {"sources": mixture}})
    for stage in ("tokenizer", "tokenize"):
        done = headwater("stage", stage, *arguments)
        assert done.code == 0, done.err
    run = tmp_path / "run"
    ledger = json.loads((run / "tokenize" / "ledger.json").read_text())
    of_sources = {words: count for words, count in ledger["notes"].items() if "training tokens of source" in words}
    [train] = [entry for entry in ledger["tokens"] if "documents.train" in entry.values()]
    assert len(of_sources) == 2 and sum(of_sources.values()) == train["kept"]
    assert "training tokens of source 1" in done.out
    config, _ = open_recipe(run.parent / "recipe.yaml", [])
    assert str(tmp_path) not in settings(config)  # a model card shows no path of the machine


@pytest.mark.parametrize("duplicates", ["keep", "drop"])
def test_what_came_before_is_left_out_where_asked(tmp_path, duplicates):
    """The same text in two sources, and twice in one, but for white space; what is held out is no duplicate."""
    texts = ["one two", "three", "four", "one  two\n", "five", "three"]
    rows = [json.dumps({"text": text * 30}) + "\n" for text in texts]
    (tmp_path / "a.jsonl").write_text("".join(rows))
    (tmp_path / "b.jsonl").write_text(rows[2] + json.dumps({"text": "six" * 30}) + "\n" + rows[4])
    others = [json.dumps({"text": f"what number {n} says about the weather of {n + 7} days. " * 3}) for n in range(12)]
    (tmp_path / "c.jsonl").write_text("\n".join(others) + "\n")
    parts = [{"source": "jsonl", "path": str(tmp_path / f"{name}.jsonl"), "held_out": 1e-9} for name in "abc"]
    parts[2]["held_out"] = 0.5
    corpus = Corpus(sources=parts, duplicates=duplicates, held_out_overlap="keep")
    held = sum(sources.goes_to_held_out(corpus, row.key) for row in sources.documents(corpus, []))
    tree = TREE | {"corpus": json.loads(corpus.model_dump_json(exclude_unset=True))}
    arguments = good(tmp_path, tree)
    assert headwater("stage", "tokenizer", *arguments).code == 0
    done = headwater("stage", "tokenize", *arguments)
    assert done.code == 0, done.err
    made = json.loads((tmp_path / "run" / "tokenize" / "artifact.json").read_text())["metrics"]
    notes = json.loads((tmp_path / "run" / "tokenize" / "ledger.json").read_text())["notes"]
    assert held >= 1
    left = notes.get("training documents left out: the same came before", 0)
    assert made["documents.train.documents"] == 21 - held - left
    assert left == (0 if duplicates == "keep" else 21 - held - different(corpus)) and different(corpus) == 18 - held


def different(corpus):
    """Training documents that differ by more than white space."""
    rows = [row for row in sources.documents(corpus, []) if not sources.goes_to_held_out(corpus, row.key)]
    return len({" ".join(row.text.split()) for row in rows})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "a source is needed"),
        ({"source": "stdlib", "sources": [{"source": "stdlib"}]}, "leave out source"),
        ({"sources": [{"source": "stdlib"}], "held_out": 0.2}, "leave out held_out"),
        ({"sources": [{"path": "x"}]}, "Field required"),
        ({"sources": [{"source": "stdlib", "repeats": 0}]}, "greater than 0"),
        ({"sources": [{"source": "stdlib", "fim": 0.5}]}, "Extra inputs"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        Corpus(**fields)
