"""What the tests of data share: shards from lists of token lists."""

import numpy as np
import pytest

from pipeline.data.shards import Shard, ShardWriter


@pytest.fixture
def make_shard(tmp_path):
    """`make_shard(documents, targets=None, vocabulary_size=...)`: a shard of those token lists, opened."""

    def make(documents, targets=None, vocabulary_size=100_000, name="documents"):
        with ShardWriter(tmp_path, name, vocabulary_size, tokenizer_sha256="a" * 64) as writer:
            for index, document in enumerate(documents):
                supervised = None if targets is None else np.array(targets[index], np.uint8)
                writer.add(
                    np.array(document), np.array([len(document)]), np.array([3 * len(document)]), supervised
                )
        return Shard.open(tmp_path, name, "a" * 64)

    return make


@pytest.fixture
def random_documents():
    """`random_documents(seed)`: up to 60 documents of 1 to 40 tokens, every token unlike every other."""

    def make(seed):
        random = np.random.default_rng(seed)
        lengths = random.integers(1, 40, random.integers(1, 60))
        return [list(tokens) for tokens in np.split(1 + np.arange(lengths.sum()), np.cumsum(lengths)[:-1])]

    return make
