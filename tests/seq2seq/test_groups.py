"""Catches a pair that an epoch misses or repeats, groups over their budget, gaps that lose or invent a token."""

import numpy as np
import pytest
import torch

from recipes.seq2seq.groups import Groups, PairedTexts, collated, padded
from recipes.seq2seq.spans import Corrupted, both_sides, corrupted, gaps_of
from tests.seq2seq.cases import write_ids

PADS = (0, 0)


@pytest.fixture
def pairs(tmp_path):
    write_ids(tmp_path, "train", 60)
    return PairedTexts.open(tmp_path, "train")


def groups_of(pairs, seed, tokens=64) -> Groups:
    return Groups(pairs, np.arange(len(pairs.source)), tokens, PADS, seed)


def rows_of(item) -> list[tuple]:
    return [
        tuple(map(tuple, (s[s != 0], t[t != 0]))) for s, t in zip(item["source"], item["target"], strict=True)
    ]


@pytest.mark.parametrize("seed", [None, 4])
def test_every_pair_is_there_once_an_epoch_within_the_budget(pairs, seed):
    groups = groups_of(pairs, seed)
    wanted = sorted((tuple(pairs.source.row(i)), tuple(pairs.target.row(i))) for i in range(60))
    epochs = [
        [groups.item(epoch * groups.length + index) for index in range(groups.length)] for epoch in range(2)
    ]
    for items in epochs:
        assert sorted(row for item in items for row in rows_of(item)) == wanted
        for item in items:
            count, longest = len(item["source"]), max(item["source"].shape[1], item["target"].shape[1])
            assert count * longest <= 64 and longest - min(map(len, rows_of(item)[0])) < 24
    same = [rows_of(a) == rows_of(b) for a, b in zip(*epochs, strict=True)]
    assert all(same) if seed is None else not any(same[:3])


def test_an_item_is_a_function_of_its_index_alone(pairs):
    groups, again = groups_of(pairs, 4), groups_of(pairs, 4)
    backwards = {index: rows_of(again.item(index)) for index in reversed(range(2 * groups.length))}
    assert all(rows_of(groups.item(index)) == backwards[index] for index in range(2 * groups.length))


def test_several_groups_are_one_batch(pairs):
    groups = groups_of(pairs, 4)
    items = [groups.item(index) for index in range(3)]
    batch = collated(items, PADS)
    assert batch["source"].dtype == torch.int64
    made = {name: tensor.numpy() for name, tensor in batch.items()}
    assert rows_of(made) == [row for item in items for row in rows_of(item)]


def test_texts_come_back_from_their_gaps():
    text = np.append(np.arange(100, 140), 1)
    gaps = gaps_of(40, 0.15, 3.0, seed=0, index=7, place=2)
    assert gaps.sum() == 6 and np.array_equal(gaps, gaps_of(40, 0.15, 3.0, seed=0, index=7, place=2))
    assert (gaps & ~np.append(False, gaps[:-1])).sum() == 2
    given, wanted = corrupted(text, gaps, [50, 51, 52])
    assert given[-1] == wanted[-1] == 1 and len(given) == 41 - 6 + 2 and len(wanted) == 6 + 2 + 1
    spans = {50: [], 51: []}
    for token in wanted[:-1]:
        if token in spans:
            last = spans[token]
        else:
            last.append(token)
    whole = [part for token in given for part in (spans[token] if token in spans else [token])]
    assert whole == text.tolist()


@pytest.mark.parametrize("length", [1, 2, 3, 8, 60])
def test_of_any_length_one_token_goes_and_one_stays(length):
    found = np.stack([gaps_of(length, 0.15, 3.0, 0, index, 0) for index in range(300)])
    assert set(found.sum(1)) == {0 if length < 2 else min(max(1, round(0.15 * length)), length - 1)}
    if length > 1:
        assert found.any(0).all()  # a gap may stand anywhere


def test_corrupted_groups_hold_each_text_of_both_sides(pairs):
    texts = both_sides(pairs)
    assert len(texts) == 120 and np.array_equal(texts.row(60), pairs.target.row(0))
    split = Corrupted(groups_of(PairedTexts(texts, texts), 3), list(range(40, 60)), 0.15, 3.0, seed=3)
    item = split.item(5)
    assert np.array_equal(item["source"], split.item(5)["source"])
    assert (item["source"] >= 40).any(1).all()  # a gap in each
    assert np.array_equal(padded([np.array([1, 2]), np.array([3])], 0), [[1, 2], [3, 0]])
