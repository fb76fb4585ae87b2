"""Catches shards that change tokens, wrap ids, read unfinished or damaged files, or meet another tokenizer."""

import hashlib
import pickle

import numpy as np
import pytest

from pipeline.data.shards import Shard, ShardWriter, token_dtype, tokenizer_digest
from pipeline.run.errors import UserError


def test_documents_come_back(make_shard):
    documents, targets = [[1, 2, 3], [4], [5, 6]], [[0, 1, 1], [0], [1, 0]]
    shard = make_shard(documents, targets)
    assert [shard.document(i).tolist() for i in range(shard.documents)] == documents
    assert [shard.targets_of(i).tolist() for i in range(shard.documents)] == targets
    assert (shard.tokens_total, shard.bytes_total, shard.byte_lengths.tolist()) == (6, 18, [9, 3, 6])


def test_one_call_of_many_is_many_calls_of_one(make_shard, tmp_path):
    one_by_one = make_shard([[1, 2], [3]])
    with ShardWriter(tmp_path, "at_once", 100_000, "a" * 64) as writer:
        writer.add(np.array([1, 2, 3]), np.array([2, 1]), np.array([6, 3]))
    for suffix in ("tokens.bin", "offsets.npy", "bytes.npy", "json"):
        assert (tmp_path / f"at_once.{suffix}").read_bytes() == (
            tmp_path / f"documents.{suffix}"
        ).read_bytes()
    assert one_by_one.targets is None


@pytest.mark.parametrize(("vocabulary_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_the_largest_id_survives(make_shard, vocabulary_size, dtype):
    shard = make_shard([[0, vocabulary_size - 1]], vocabulary_size=vocabulary_size)
    assert shard.document(0).tolist() == [0, vocabulary_size - 1]
    assert shard.tokens.dtype == token_dtype(vocabulary_size) == dtype


def test_an_id_beyond_the_vocabulary_is_refused(make_shard):
    with pytest.raises(AssertionError, match="id 65536 >= 65536"):
        make_shard([[65_536]], vocabulary_size=65_536)


def test_another_tokenizer_is_refused(make_shard, tmp_path):
    make_shard([[1]])
    with pytest.raises(UserError, match="not the one the tokens were made with"):
        Shard.open(tmp_path, "documents", "b" * 64)


def test_the_tokenizer_is_known_by_the_bytes_of_its_file(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    assert tokenizer_digest(tmp_path) == hashlib.sha256(b"{}").hexdigest()
    with pytest.raises(UserError, match="no tokenizer.json"):
        tokenizer_digest(tmp_path / "elsewhere")


def test_an_interrupted_shard_does_not_open(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "documents", 10, "a" * 64) as writer:
        writer.add(np.array([1]), np.array([1]), np.array([1]))
        raise RuntimeError
    with pytest.raises(UserError, match="no finished shard"):
        Shard.open(tmp_path, "documents")


@pytest.mark.parametrize("suffix", ["tokens.bin", "targets.bin", "offsets.npy", "bytes.npy"])
def test_a_damaged_shard_does_not_open(make_shard, tmp_path, suffix):
    make_shard([[1, 2], [3]], [[0, 1], [1]])
    path = tmp_path / f"documents.{suffix}"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"documents.{suffix} is damaged"):
        Shard.open(tmp_path, "documents")
    path.unlink()
    with pytest.raises(UserError, match=f"documents.{suffix} is damaged"):
        Shard.open(tmp_path, "documents")


def test_pickling_carries_no_tokens(make_shard):
    shard = make_shard([list(range(10_000))])
    pickled = pickle.dumps(shard)
    assert len(pickled) < 1000
    assert np.array_equal(pickle.loads(pickled).tokens, shard.tokens)
