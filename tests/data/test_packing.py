"""Catches rows that lose, repeat or leak tokens, or that depend on what was read before."""

from collections import Counter

import numpy as np
import pytest

from pipeline.data.fitting import best_fit_decreasing
from pipeline.data.packing import Alone, PackedConversations, PackedDocuments, collate
from pipeline.run.errors import UserError

SEEDS = range(8)


def rows_of(split, epoch=0):
    return [split.item(index) for index in range(epoch * split.length, (epoch + 1) * split.length)]


def targets_in(rows):
    return Counter(int(label) for row in rows for label in row["labels"] if label != -100)


def inputs_in(rows):
    return Counter(int(token) for row in rows for token in row["input_ids"][row["document_ids"] >= 0])


def equal(left, right):
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("data_seed", SEEDS)
@pytest.mark.parametrize("sequence_length", [1, 2, 7, 64])
def test_every_token_but_a_first_is_a_target_once_an_epoch(
    make_shard, random_documents, data_seed, sequence_length
):
    documents = random_documents(data_seed)
    split = PackedDocuments(make_shard(documents), sequence_length, seed=data_seed)
    for epoch in (0, 1, 5):
        rows = rows_of(split, epoch)
        assert targets_in(rows) == Counter(token for document in documents for token in document[1:])
        assert inputs_in(rows) == Counter(token for document in documents for token in document)


@pytest.mark.parametrize("data_seed", SEEDS)
def test_labels_and_ids_stay_within_their_document(make_shard, random_documents, data_seed):
    """Tokens count up within the whole shard, so a token's successor and its document are known from its value."""
    documents = random_documents(data_seed)
    document_of = {token: index for index, document in enumerate(documents) for token in document}
    for row in rows_of(PackedDocuments(make_shard(documents), 16, seed=1)):
        seen = {}
        for token, label, slot in zip(row["input_ids"], row["labels"], row["document_ids"], strict=True):
            if slot == -1:
                assert (token, label) == (0, -100)
                continue
            assert seen.setdefault(slot, document_of[token]) == document_of[token]
            goes_on = document_of.get(token + 1) == document_of[token]
            assert label == (token + 1 if goes_on else -100)


def test_split_and_carry(make_shard):
    shard = make_shard([[1, 2, 3, 4, 5], [6, 7]])
    first, second = rows_of(PackedDocuments(shard, 4, seed=None))
    assert first["input_ids"].tolist() == [1, 2, 3, 4]
    assert first["labels"].tolist() == [2, 3, 4, 5]
    assert second["input_ids"].tolist() == [5, 6, 7, 0]
    assert second["labels"].tolist() == [-100, 7, -100, -100]
    assert second["document_ids"].tolist() == [0, 1, 1, -1]
    assert second["position_ids"].tolist() == [0, 0, 1, 0]


def test_dtypes_and_shapes(make_shard):
    row = PackedDocuments(make_shard([[1, 2, 3]]), 8, seed=0).item(0)
    assert {name: (array.dtype.name, array.shape) for name, array in row.items()} == {
        "input_ids": ("int64", (8,)),
        "labels": ("int64", (8,)),
        "document_ids": ("int32", (8,)),
        "position_ids": ("int64", (8,)),
    }


@pytest.mark.parametrize("kind", ["documents", "conversations"])
def test_epochs_differ_in_order_and_not_in_content(make_shard, random_documents, kind):
    split = make_split(kind, make_shard, random_documents(3), seed=7)
    first, second = rows_of(split, 0), rows_of(split, 1)
    assert targets_in(first) == targets_in(second)
    assert [row["input_ids"].tolist() for row in first] != [row["input_ids"].tolist() for row in second]


@pytest.mark.parametrize("kind", ["documents", "conversations"])
def test_without_a_seed_every_epoch_is_the_same(make_shard, random_documents, kind):
    split = make_split(kind, make_shard, random_documents(3), seed=None)
    assert all(equal(left, right) for left, right in zip(rows_of(split, 0), rows_of(split, 4), strict=True))


@pytest.mark.parametrize("kind", ["documents", "conversations"])
def test_an_item_does_not_depend_on_what_was_read_before(make_shard, random_documents, kind):
    documents = random_documents(3)
    split, other = (make_split(kind, make_shard, documents, seed=7) for _ in range(2))
    indices = np.random.default_rng(0).permutation(3 * split.length)
    in_order = [split.item(index) for index in range(3 * split.length)]
    assert all(equal(other.item(int(index)), in_order[index]) for index in indices)


def make_split(kind, make_shard, documents, seed):
    if kind == "documents":
        return PackedDocuments(make_shard(documents), 16, seed)
    supervised = [[0] + [1] * (len(document) - 1) for document in documents]
    return PackedConversations(make_shard(documents, supervised), 40, seed, on_long="error")


@pytest.mark.parametrize("data_seed", SEEDS)
def test_conversations_are_whole_and_labels_follow_the_targets(make_shard, random_documents, data_seed):
    documents = random_documents(data_seed)
    random = np.random.default_rng(data_seed)
    targets = [random.integers(0, 2, len(document)) for document in documents]
    rows = rows_of(PackedConversations(make_shard(documents, targets), 48, seed=0, on_long="error"))
    supervised = {
        token: target
        for pair in zip(documents, targets, strict=True)
        for token, target in zip(*pair, strict=True)
    }
    firsts = {document[0] for document in documents}
    placed = []
    for row in rows:
        for slot in range(row["document_ids"].max() + 1):
            here = row["document_ids"] == slot
            tokens = row["input_ids"][here].tolist()
            placed.append(tokens)
            follows = [*tokens[1:], None]
            wanted = [token if token and supervised[token] else -100 for token in follows]
            assert row["labels"][here].tolist() == wanted
            assert row["position_ids"][here].tolist() == list(range(len(tokens)))
    assert sorted(placed) == sorted(documents)
    assert targets_in(rows) == Counter(
        token for token in supervised if supervised[token] and token not in firsts
    )


def test_a_long_conversation_is_an_error_that_names_it(make_shard):
    shard = make_shard([[1, 2], [3, 4, 5, 6, 7]], [[0, 1], [0, 1, 1, 1, 1]])
    with pytest.raises(
        UserError, match=r"conversation 1 of documents has 5 tokens: more than .* 4, as have 1 of 2"
    ):
        PackedConversations(shard, 4, seed=0, on_long="error")


@pytest.mark.parametrize(("on_long", "kept", "lost"), [("truncate", 6, (1, 0)), ("drop", 2, (0, 5))])
def test_long_conversations_are_counted(make_shard, on_long, kept, lost):
    shard = make_shard([[1, 2], [3, 4, 5, 6, 7]], [[0, 1], [0, 1, 1, 1, 1]])
    split = PackedConversations(shard, 4, seed=0, on_long=on_long)
    ledger = split.ledger()
    assert (ledger.tokens_in, ledger.kept, ledger.truncated, ledger.dropped) == (7, kept, *lost)
    assert inputs_in(rows_of(split)).total() == ledger.inputs == kept
    assert 7 not in targets_in(rows_of(split))


def test_truncation_to_nothing_is_refused(make_shard):
    shard = make_shard([[1, 2, 3, 4, 5]], [[1, 0, 0, 0, 1]])
    with pytest.raises(UserError, match="its first 4 hold none of the assistant's"):
        PackedConversations(shard, 4, seed=0, on_long="truncate")


def test_dropping_everything_is_refused(make_shard):
    with pytest.raises(UserError, match="none of the 1 conversations"):
        PackedConversations(make_shard([[1, 2, 3]], [[0, 1, 1]]), 2, seed=0, on_long="drop")


@pytest.mark.parametrize("data_seed", SEEDS)
@pytest.mark.parametrize("kind", ["documents", "conversations"])
def test_the_ledger_is_what_the_rows_hold(make_shard, random_documents, kind, data_seed):
    split = make_split(kind, make_shard, random_documents(data_seed), seed=1)
    rows, ledger = rows_of(split), split.ledger()
    assert len(rows) == ledger.rows
    assert sum(int((row["document_ids"] >= 0).sum()) for row in rows) == ledger.inputs == ledger.kept
    assert sum(int((row["document_ids"] < 0).sum()) for row in rows) == ledger.padded


def test_best_fit_fills_the_fullest_row_with_room():
    """10 leaves 2 free and 7 leaves 5, so the 5 goes to the 7 and the 2 to the 10."""
    assert best_fit_decreasing(np.array([2, 7, 5, 10]), 12).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("data_seed", SEEDS)
def test_best_fit_pads_less_than_packing_in_order(data_seed):
    lengths = np.random.default_rng(data_seed).integers(1, 65, 500)
    row_of = best_fit_decreasing(lengths, 64)
    fill = np.bincount(row_of, weights=lengths)
    assert sorted(fill) == sorted(best_fit_by_search(lengths, 64))
    assert len(fill) < rows_in_order(lengths, 64)


def best_fit_by_search(lengths, capacity):
    """The fill of each row by the definition: look at every row."""
    fill = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row in range(len(fill)) if fill[row] + length <= capacity]
        if fitting:
            fill[max(fitting, key=fill.__getitem__)] += length
        else:
            fill.append(length)
    return fill


def rows_in_order(lengths, capacity):
    rows, free = 0, 0
    for length in lengths:
        if length > free:
            rows, free = rows + 1, capacity
        free -= length
    return rows


@pytest.mark.parametrize("data_seed", SEEDS)
@pytest.mark.parametrize("sequence_length", [2, 7, 64])
def test_alone_each_document_has_rows_of_its_own(make_shard, random_documents, data_seed, sequence_length):
    documents = random_documents(data_seed)
    split = Alone(make_shard(documents), sequence_length, data_seed, None, step=3)
    for epoch in (0, 4):
        rows = rows_of(split, epoch)
        assert targets_in(rows) == Counter(token for document in documents for token in document[1:])
        assert inputs_in(rows) == Counter(token for document in documents for token in document)
        for row in rows:
            assert not row["document_ids"].any() and len(row["input_ids"]) <= sequence_length
            assert np.array_equal(row["position_ids"], np.arange(len(row["input_ids"])))


def test_alone_a_step_has_rows_of_about_one_length(make_shard):
    lengths = np.random.default_rng(0).integers(1, 200, 400)
    shard = make_shard([list(range(length)) for length in lengths])
    split = Alone(shard, 256, 0, None, step=8)
    steps = np.array([len(split.item(index)["input_ids"]) for index in range(400)]).reshape(50, 8)
    assert split.padding == pytest.approx(1 - steps.sum() / (8 * steps.max(1)).sum())
    assert split.padding < 0.05  # in random order: 0.45
    assert abs(np.corrcoef(np.arange(50), steps.mean(1))[0, 1]) < 0.3  # and short steps do not come first
    again = [len(split.item(index)["input_ids"]) for index in range(400, 800)]
    assert sorted(again) == sorted(lengths) and again != steps.flatten().tolist()


def test_alone_long_conversations_are_as_in_packing(make_shard):
    shard = make_shard([[1, 2, 3, 4], list(range(10, 30))], [[0, 1, 1, 1], [0] * 8 + [1] * 12])
    with pytest.raises(UserError, match="conversation 1 .* has 20 tokens"):
        Alone(shard, 9, 0, "error", 2)
    cut, kept = Alone(shard, 9, None, "truncate", 2), Alone(shard, 9, None, "drop", 2)
    assert [len(row["input_ids"]) for row in rows_of(cut)] == [4, 9] and kept.length == 1
    assert rows_of(cut)[1]["labels"].tolist() == [-100] * 7 + [18, -100]


def test_collate_stacks_rows(make_shard):
    split = PackedDocuments(make_shard([[1, 2, 3, 4, 5], [6, 7]]), 4, seed=None)
    batch = collate([split.item(0), split.item(1)])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 0]]
    assert {name: str(tensor.dtype) for name, tensor in batch.items()} == {
        "input_ids": "torch.int64",
        "labels": "torch.int64",
        "document_ids": "torch.int32",
        "position_ids": "torch.int64",
    }
