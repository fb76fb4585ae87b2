"""Catches scored tokens that are missed, counted twice, or given another context than the docstring says."""

from collections import Counter

import pytest

from pipeline.data.packing import Conversations, Windows, collate


@pytest.mark.parametrize("data_seed", range(5))
@pytest.mark.parametrize("sequence_length", [1, 5, 100])
def test_windows_score_every_token_but_the_first_once(
    make_shard, random_documents, data_seed, sequence_length
):
    documents = random_documents(data_seed)
    split = Windows(make_shard(documents), sequence_length)
    items = [split.item(index) for index in range(split.length)]
    labels = [int(label) for item in items for label in item["labels"]]
    assert labels == [token for document in documents for token in document[1:]]
    assert max(len(item["labels"]) for item in items) <= sequence_length


def test_a_window_is_its_whole_context(make_shard):
    split = Windows(make_shard([[9], [1, 2, 3, 4, 5, 6]]), 3)
    first, second = split.item(0), split.item(1)
    assert split.length == 2
    assert (first["input_ids"].tolist(), first["labels"].tolist()) == ([1, 2, 3], [2, 3, 4])
    assert (second["input_ids"].tolist(), second["labels"].tolist()) == ([4, 5], [5, 6])
    assert second["position_ids"].tolist() == [0, 1]
    assert (int(first["document"]), int(second["document"])) == (1, 1)


def test_only_the_first_documents_are_scored_when_asked(make_shard):
    split = Windows(make_shard([[1, 2], [3, 4], [5, 6]]), 8, documents=2)
    assert [int(split.item(index)["document"]) for index in range(split.length)] == [0, 1]


def test_a_conversation_is_alone_and_truncation_is_counted(make_shard):
    shard = make_shard([[1, 2, 3, 4, 5], [6, 7, 8, 9], [10, 11]], [[0, 1, 1, 0, 1], [1, 0, 0, 1], [0, 1]])
    split = Conversations(shard, 3)
    items = [split.item(index) for index in range(split.length)]
    assert [int(item["document"]) for item in items] == [0, 2]
    assert [item["labels"].tolist() for item in items] == [[2, 3, -100], [11, -100]]
    ledger = split.ledger()
    assert (ledger.kept, ledger.truncated, ledger.dropped) == (5, 2, 4)
    assert Conversations(shard, 3, conversations=2).length == 1


def test_collate_pads_to_the_longest(make_shard):
    split = Windows(make_shard([[1, 2, 3, 4], [5, 6]]), 8)
    batch = collate([split.item(0), split.item(1)])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [5, 0, 0]]
    assert batch["labels"].tolist() == [[2, 3, 4], [6, -100, -100]]
    assert batch["document_ids"].tolist() == [[0, 0, 0], [0, -1, -1]]
    assert batch["document"].tolist() == [0, 1]


def test_a_batch_pads_without_changing_targets(make_shard, random_documents):
    documents = random_documents(4)
    split = Windows(make_shard(documents), 6)
    batch = collate([split.item(index) for index in range(split.length)])
    scored = Counter(int(label) for label in batch["labels"].flatten() if label != -100)
    assert scored == Counter(token for document in documents for token in document[1:])
