"""Catches judged answers that are read as others, units torn apart, and bad rows that pass."""

import json

import numpy as np
import pytest

from pipeline.data import sources
from pipeline.data.config import Preferences
from pipeline.data.judged import against_neighbours, against_others
from pipeline.data.kinds import FOREIGN, UNWANTED, WANTED, Judgements
from pipeline.data.packing import IGNORED
from pipeline.data.pairs import NO_UNIT, PackedAnswers, collate_answers
from pipeline.data.shards import Shard, ShardWriter
from pipeline.data.stdlib import Pair, Sense
from pipeline.run.errors import UserError
from tests.stages.tiny_model import make_tokenizer
from tests.tiny_preferences import random_units, shard_of_answers

USER = {"role": "user", "content": "what is it?"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("a thing", "no thing"))


def read(tmp_path, *rows, **settings):
    file = tmp_path / "judged.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(sources.preferences(Preferences(path=str(file), **settings), []))


SAME = {
    "texts": {"prompt": USER["content"], "chosen": "a thing", "rejected": "no thing"},
    "a list of messages beside a prompt": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "messages that repeat the prompt": {
        "prompt": USER["content"],
        "chosen": [USER, GOOD],
        "rejected": [USER, BAD],
    },
    "messages alone": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "messages as JSON text": {"chosen": json.dumps([USER, GOOD]), "rejected": json.dumps([USER, BAD])},
}


@pytest.mark.parametrize("row", SAME.values(), ids=SAME)
def test_a_pair_is_the_same_in_every_shape(tmp_path, row):
    [found] = read(tmp_path, row)
    assert found.prompt == (USER,) and found.answers == ((GOOD,), (BAD,)) and found.verdicts == (True, False)


def test_a_system_text_opens_the_prompt_and_earlier_answers_are_not_judged(tmp_path):
    earlier = [USER, GOOD, USER]
    row = {"system": "be short", "chosen": [*earlier, GOOD], "rejected": [*earlier, BAD]}
    [found] = read(tmp_path, row)
    messages = found.conversation(1)
    assert messages[0] == {"role": "system", "content": "be short"}
    assert [message.get("train", True) for message in messages] == [True, True, False, True, True]


def test_texts_without_a_prompt_are_divided_at_the_last_space_that_both_have(tmp_path):
    [found] = read(tmp_path, {"chosen": "Q: where? A: Paris", "rejected": "Q: where? A: Parma"})
    assert found.plain
    assert [message["content"] for message in found.conversation(0)] == ["Q: where? A:", " Paris"]
    assert found.answers[1][0]["content"] == " Parma"


@pytest.mark.parametrize("label", [False, 0])
def test_a_verdict_is_read_with_its_answer(tmp_path, label):
    [found] = read(tmp_path, {"prompt": "why?", "completion": "so", "label": label})
    assert found.verdicts == (False,) and found.answers[0][0]["content"] == "so"


BAD_ROWS = {
    "equal": ({"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are equal"),
    "no common prefix": (
        {"prompt": "what?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        "is not how the prompt begins",
    ),
    "nothing in common": (
        {"chosen": [USER, GOOD], "rejected": [{"role": "user", "content": "x"}, BAD]},
        "no first message in common",
    ),
    "one goes on": ({"chosen": [USER, GOOD], "rejected": [USER, GOOD, USER]}, "an answer is empty"),
    "an empty side": ({"prompt": "a", "chosen": " ", "rejected": "b"}, "'chosen' holds an empty text"),
    "a text and a list": ({"prompt": "a", "chosen": "b", "rejected": [BAD]}, "both alike"),
    "no label": ({"prompt": "a", "completion": "b", "label": None}, "no judged answers"),
    "a label that is none": ({"prompt": "a", "completion": "b", "label": "good"}, "'label' holds 'good'"),
    "no prompt": ({"completion": "b", "label": True}, "no column 'prompt'"),
    "other columns": ({"text": "a"}, "the columns text hold no judged answers"),
}


@pytest.mark.parametrize(("row", "said"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_refused_by_its_line_or_skipped(tmp_path, row, said):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    if "completion" in row:
        good = {"prompt": "a", "completion": "b", "label": True}
    with pytest.raises(UserError, match=r"judged\.jsonl:1: ") as refused:
        read(tmp_path, row, good)
    assert said in str(refused.value) and "preferences.on_bad_row=skip" in str(refused.value)
    assert len(read(tmp_path, row, good, on_bad_row="skip")) == 1


def test_a_row_of_the_other_kind_is_refused(tmp_path):
    pair, verdict = (
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"prompt": "a", "completion": "b", "label": 1},
    )
    with pytest.raises(UserError, match="no column 'chosen'"):
        read(tmp_path, pair, verdict)


def test_docstrings_are_set_against_their_neighbours():
    pairs = [Pair("f", "Q f", "A f"), Pair("g", "Q g", "A g"), Pair("h", "Q h", "A f")]
    found = against_neighbours("m.py", pairs)
    assert [p.key for p in found] == ["m.py::f", "m.py::g"]  # the last one's neighbour says the same
    assert [p.answers[1][0]["content"] for p in found] == ["A g", "A f"]


def test_definitions_are_set_against_another_sense_where_an_example_says_which():
    senses = [
        Sense("bank", "noun", "1", "the side of a river", ("he sat on the bank",)),
        Sense("bank", "noun", "2", "a house of money", ()),
        Sense("cat", "noun", "3", "an animal", ()),
        Sense("run", "verb", "4", "move fast", ()),
    ]
    found = dict(against_others(senses, lambda key: False))
    first = found[senses[0].name]
    assert 'as in: "he sat on the bank"' in first.prompt[0]["content"]
    assert first.answers[1][0]["content"] == "a house of money"
    # Without an example both senses of a word are right: another word's stands against it. A lone verb has none.
    assert found[senses[1].name].answers[1][0]["content"] == "an animal"
    assert senses[3].name not in found


def test_no_definition_is_set_against_one_of_the_other_split():
    senses = [Sense(f"w{i}", "noun", str(i), f"d{i}", ()) for i in range(40)]
    split = {sense.name: i % 4 == 0 for i, sense in enumerate(senses)}
    by_definition = {sense.definition: split[sense.name] for sense in senses}
    found = list(against_others(senses, split.__getitem__))
    assert len(found) == 40
    assert all(by_definition[p.answers[1][0]["content"]] == split[key] for key, p in found)


def encoded(tmp_path, rows, **settings):
    tokenizer = make_tokenizer(tmp_path / "tokenizer")
    kind = Judgements(Preferences(path="x", **settings), tokenizer, [])
    [(answers, found)] = list(kind.encode(rows))
    ids = np.split(found.ids, np.cumsum(found.lengths)[:-1])
    targets = np.split(found.targets, np.cumsum(found.lengths)[:-1])
    return tokenizer, answers, found, ids, targets, kind


def test_the_answer_alone_is_judged_with_the_token_that_ends_it(tmp_path):
    rows = read(tmp_path, {"prompt": "what is it?", "chosen": "a thing", "rejected": "no thing"})
    tokenizer, answers, found, ids, targets, kind = encoded(tmp_path, rows)
    assert found.labels.tolist() == [WANTED, UNWANTED]
    judged = [tokenizer.decode(i[t != 0]) for i, t in zip(ids, targets, strict=True)]
    assert judged == ["a thing<|end|>", "no thing<|end|>"]
    assert [kind.record(answer)["messages"][1]["content"] for answer in answers] == ["a thing", "no thing"]


def test_a_margin_goes_with_both_answers_into_the_items(tmp_path):
    answer = {"chosen": "a thing", "rejected": "no thing"}
    rows = read(
        tmp_path, {"prompt": "what is it?", **answer, "margin": 1.5}, {"prompt": "and then?", **answer}
    )
    tokenizer, _, found, *_ = encoded(tmp_path, rows)
    assert found.margins.tolist() == [1.5, 1.5, 0, 0]
    with ShardWriter(tmp_path, "preferences", len(tokenizer), tokenizer_sha256="") as writer:
        writer.add(found.ids, found.lengths, found.byte_lengths, found.targets, found.labels, found.margins)
    packed = PackedAnswers(Shard.open(tmp_path, "preferences"), None, 256, None, "error", packed=True)
    batch = collate_answers([packed.item(0)])
    assert sorted(batch["margins"][0].tolist()) == [[0, 0], [1.5, 1.5]]


def test_a_plain_text_is_judged_from_where_the_sides_part_to_its_end(tmp_path):
    rows = read(tmp_path, {"chosen": "the end is it", "rejected": "the end is not"})
    tokenizer, _, _, ids, targets, _ = encoded(tmp_path, rows)
    judged = [tokenizer.decode(i[t != 0]) for i, t in zip(ids, targets, strict=True)]
    assert [text.split("<")[0] for text in judged] == [" it", " not"]


def test_a_verdict_is_followed_by_the_answer_of_the_row_before(tmp_path):
    rows = read(tmp_path, *({"prompt": f"q {n}", "completion": f"a {n}", "label": n == 1} for n in range(3)))
    tokenizer, answers, found, ids, targets, _ = encoded(tmp_path, rows)
    assert found.labels.tolist() == [UNWANTED, FOREIGN, WANTED, FOREIGN, UNWANTED, FOREIGN]
    judged = [tokenizer.decode(i[t != 0]).split("<")[0] for i, t in zip(ids, targets, strict=True)]
    assert judged == ["a 0", "a 2", "a 1", "a 0", "a 2", "a 1"]
    assert "q 0" in tokenizer.decode(ids[1])


@pytest.mark.parametrize("packed", [True, False])
def test_every_unit_is_whole_in_one_item_and_there_once_an_epoch(tmp_path, packed):
    answers, labels = random_units(23)
    shard = shard_of_answers(tmp_path / "shard", answers, labels, 37)
    reference = np.arange(46, dtype=np.float32)
    rows = PackedAnswers(shard, reference, 40, 0, "error", packed)
    seen = []
    for index in range(rows.length):
        item = rows.item(index)
        batch = collate_answers([item])
        ids, documents = batch["input_ids"].numpy(), batch["document_ids"].numpy()
        flat = [(row, number) for row in range(len(ids)) for number in range(documents[row].max() + 1)]
        assert len(flat) == batch["reference"].numel()
        for (row, number), place, length in zip(
            flat,
            batch["reference"].flatten().tolist(),
            batch["answer_lengths"].flatten().tolist(),
            strict=True,
        ):
            prompt, answer = answers[int(place)]
            here = documents[row] == number
            assert ids[row][here].tolist() == [*prompt, *answer]
            labels_here = batch["labels"][row].numpy()[here]
            assert labels_here[labels_here != IGNORED].tolist() == answer and length == len(answer)
            seen.append(int(place))
    assert sorted(seen) == list(range(46))
    assert all(seen[i] + 1 == seen[i + 1] for i in range(0, 46, 2))
    again = PackedAnswers(shard, reference, 40, 0, "error", packed)
    assert np.array_equal(again.item(rows.length + 1)["reference"], rows.item(rows.length + 1)["reference"])
    assert rows.ledger().kept == shard.tokens_total


def test_a_text_without_a_prompt_is_counted_from_its_second_token(tmp_path):
    """Nothing stands before the first one that could predict it."""
    shard = shard_of_answers(tmp_path / "shard", [([], [5, 6, 7]), ([], [5, 9])], [WANTED, UNWANTED], 37)
    rows = PackedAnswers(shard, None, 8, None, "error", True)
    assert rows.item(0)["answer_lengths"].tolist() == [[2, 1]]


def test_items_of_fewer_units_are_filled_up_with_none(tmp_path):
    answers, labels = random_units(5)
    shard = shard_of_answers(tmp_path / "shard", answers, labels, 37)
    rows = PackedAnswers(shard, None, 60, None, "error", True)
    batch = collate_answers([rows.item(index) for index in range(rows.length)])
    there = batch["answer_labels"][..., 0] != NO_UNIT
    assert there.sum() == 5 and not there.all() and not batch["reference"].any()


def test_a_pair_that_is_too_long_is_refused_or_dropped_and_counted(tmp_path):
    answers, labels = random_units(4)
    answers[3] = (answers[3][0], answers[3][1] * 20)
    shard = shard_of_answers(tmp_path / "shard", answers, labels, 37)
    with pytest.raises(UserError, match="unit 1 of preferences has .* both sides together"):
        PackedAnswers(shard, None, 40, None, "error", True)
    rows = PackedAnswers(shard, None, 40, None, "drop", True)
    assert rows.ledger().dropped == sum(len(p) + len(a) for p, a in answers[2:4])
    with pytest.raises(UserError, match="none of the 4 units"):
        PackedAnswers(shard, None, 4, None, "drop", True)
