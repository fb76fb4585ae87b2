"""What the tests of data share: shards from lists of token lists."""

import copy

import numpy as np
import pytest

from pipeline.data.shards import Shard, ShardWriter
from tokenizer.special import CHAT_TEMPLATE, SPECIAL_TOKENS


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


BRIEF_TEMPLATE = (  # renders as our own, and is easier to alter
    "<|bos|>{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OUR_NAMES = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}
CHATML_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="session")
def make_tokenizer():
    """`make_tokenizer(specials, template, words=True, **names)`: a byte-level BPE of at most 400."""

    def make(specials, template, words=True, **names):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast

        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator(
            ["what is the end of a thing? the end is\n\n  the thing that ends it\n"] * 9, trainer
        )
        fast = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
        fast.chat_template = template
        return fast

    return make


@pytest.fixture
def with_template(ours):
    """`with_template(old, new)`: our tokenizer, with `old` replaced by `new` in a template that renders as ours."""

    def make(old, new):
        assert old in BRIEF_TEMPLATE
        other = copy.deepcopy(ours)
        other.chat_template = BRIEF_TEMPLATE.replace(old, new)
        return other

    return make


@pytest.fixture(scope="session")
def merging(make_tokenizer):
    """As `ours`, but its BPE merges whatever stands side by side, line breaks too."""
    return make_tokenizer(list(SPECIAL_TOKENS), CHAT_TEMPLATE, words=False, **OUR_NAMES)


@pytest.fixture(scope="session")
def ours(make_tokenizer):
    """A tokenizer with this project's control tokens and chat template."""
    return make_tokenizer(list(SPECIAL_TOKENS), CHAT_TEMPLATE, **OUR_NAMES)


@pytest.fixture(scope="session")
def chatml(make_tokenizer):
    """A tokenizer in the manner of SmolLM2: ChatML, a default system message, padding with the end of turn."""
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    return make_tokenizer(CHATML_SPECIALS, CHATML, **names)
