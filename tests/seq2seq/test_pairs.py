"""Catches a held-out sentence that training saw, pairs that vanish without a line, a bad pair without its place."""

import gzip
import json

import pytest

from pipeline.run.errors import UserError
from recipes.common import debian
from recipes.seq2seq import sword, trans_de_en
from recipes.seq2seq.config import Pairs
from recipes.seq2seq.pairs import PairLedger, check, normal, read, split
from tests.seq2seq.cases import sentences, write_pairs


def pairs_of(path, **given) -> Pairs:
    return Pairs(**{"path": str(path), "held_out": 0.2} | given)


def write(path, *rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_pair_is_in_one_split_or_in_the_ledger(tmp_path):
    data, ledger = pairs_of(write_pairs(tmp_path / "a.jsonl")), PairLedger()
    train, held_out = split(data, ledger)
    assert {(p.source, p.target) for p in train + held_out} <= set(sentences(200))
    found = ledger.as_json()["pairs"][0]
    assert found["train"] == len(train) and found["held_out"] == len(held_out) > 20
    assert found["pairs_in"] == 200
    assert [split(data, PairLedger())[side] for side in (0, 1)] == [train, held_out]
    ledger.train -= 1
    with pytest.raises(AssertionError, match="200 pairs in, but 199 accounted for"):
        ledger.as_json()


def test_no_side_of_a_held_out_pair_is_in_training(tmp_path):
    """The same source with another target, the same target of another source, other letters' case and spaces."""
    rows = [{"source": s, "target": t} for s, t in sentences(100)]
    more = [{"source": r["source"].upper(), "target": f"{r['target']} again"} for r in rows]
    more += [{"source": f"noch {r['source']}", "target": r["target"].replace(" ", "  ")} for r in rows]
    write(tmp_path / "a.jsonl", *rows, *more, *rows[:5])
    ledger = PairLedger()
    train, held_out = split(pairs_of(tmp_path / "a.jsonl"), ledger)
    for side in ("source", "target"):
        seen = {normal(getattr(pair, side)) for pair in train}
        kept = [normal(getattr(pair, side)) for pair in held_out]
        assert not seen & set(kept) and len(kept) == len(set(kept))
    assert ledger.repeated == 5 and ledger.held_out_overlap > 20 and ledger.held_out_repeated > 0
    ledger.as_json()


BAD = {
    "empty": ({"source": "a b", "target": " "}, "the target side is empty"),
    "equal": (
        {"source": "Hotel", "target": "hotel"},
        "both sides are equal\nexpected: .* or data.equal_sides=drop",
    ),
    "number": ({"source": 3, "target": "b"}, "the source side is no text"),
    "missing": ({"source": "a"}, "no column 'target'\nchoices: source"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_pair_is_refused_by_its_line_or_skipped_and_listed(tmp_path, case):
    row, said = BAD[case]
    rows = [{"source": s, "target": t} for s, t in sentences(60)]
    file = tmp_path / "a.jsonl"
    write(file, *rows[:5], row, *rows[5:])
    with pytest.raises(UserError, match=rf"{file}:6: {said}"):
        check(pairs_of(file))
    ledger = PairLedger()
    split(pairs_of(file, on_bad_row="skip"), ledger)
    found = ledger.as_json()
    assert found["pairs"][0]["skipped"] == 1
    assert found["skipped"][0] | {"reason": ""} == {"file": str(file), "row": 6, "reason": ""}


def test_equal_sides_are_dropped_and_counted_or_kept(tmp_path):
    rows = [{"source": s, "target": t} for s, t in sentences(60)] + [{"source": "Hotel", "target": "hotel"}]
    write(tmp_path / "a.jsonl", *rows)
    for choice, equal in (("drop", 1), ("keep", 0)):
        ledger = PairLedger()
        split(pairs_of(tmp_path / "a.jsonl", equal_sides=choice), ledger)
        assert ledger.equal == equal and ledger.train + ledger.held_out == 61 - equal


def test_tables_of_other_kinds_and_columns_are_read_and_may_be_turned_round(tmp_path):
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write("de,en,id\nrot,red,1\nblau,blue,2\n")
    data = pairs_of(tmp_path / "a.csv.gz", source_column="de", target_column="en")
    assert [(p.source, p.target) for p in read(data, PairLedger())] == [("rot", "red"), ("blau", "blue")]
    turned = data.model_copy(update={"swap": True, "max_pairs": 1})
    assert [(p.source, p.target) for p in read(turned, PairLedger())] == [("red", "rot")]
    with pytest.raises(UserError, match="has no column 'fr'\nchoices: .*\nway out: data.target_column=NAME"):
        check(data.model_copy(update={"target_column": "fr"}))


LINES = """# Version :: devel
A {n}; Ais {n} | A-Dur {n} :: A; A sharp | A major
Er ist krank. | Sie geht heim (nach Hause). :: He is ill. | She goes home [coll.].
Abgas {n} | Abgase {pl} :: exhaust gas
"""


def test_the_word_list_gives_first_variants_without_remarks(tmp_path):
    (tmp_path / "de-en").write_text(LINES)
    assert list(trans_de_en.pairs(tmp_path)) == [
        (2, "A", "A", False),
        (2, "A-Dur", "A major", False),
        (3, "Er ist krank.", "He is ill.", True),
        (3, "Sie geht heim.", "She goes home.", True),
        (4, "", "", False),
    ]
    ledger = PairLedger()
    assert (
        len(
            list(
                read(Pairs(source="trans_de_en", path=str(tmp_path), words=True, equal_sides="keep"), ledger)
            )
        )
        == 4
    )
    assert (ledger.pairs_in, ledger.untold) == (5, 1)


def test_words_are_for_training_alone_and_a_missing_list_is_named(tmp_path, monkeypatch):
    lines = [f"Wort{n} {{n}} :: word{n}\nDas ist Satz {n}. :: This is sentence {n}." for n in range(60)]
    (tmp_path / "de-en").write_text("\n".join(lines))
    data = Pairs(source="trans_de_en", path=str(tmp_path), held_out=0.3)
    train, held_out = split(data, PairLedger())
    assert all(p.source.startswith("Das") for p in train + held_out)
    train, held_out = split(data.model_copy(update={"words": True}), PairLedger())
    assert len(train) > 90 and all(p.source.startswith("Das") for p in held_out)
    with pytest.raises(UserError, match="has no de-en"):
        check(data.model_copy(update={"path": "/"}))
    monkeypatch.setattr(debian, "find", lambda *_: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get is not here\nway out: data.path=DIRECTORY"):
        check(data)


def test_a_verse_loses_its_marks_and_notes_and_no_space():
    raw = '<w lemma="H1">In</w> the <q>beginning</q>, God<note>A word.</note><w>created</w> day <note>x</note>. '
    assert sword.plain(raw) == "In the beginning, God created day."
    assert sword.plain("a &amp; b<div/>") == "a & b"
