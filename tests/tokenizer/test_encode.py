"""Catches ids unlike those of tokenizers itself, control tokens out of a text, and an encoder believed unchecked."""

import dataclasses

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models

from tests.tokenizer.conftest import HARD_STRINGS
from tokenizer import encode as module
from tokenizer.encode import encode
from tokenizer.special import SPECIAL_TOKENS


def one_by_one(tokenizer, texts):
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.encode_special_tokens = True
    return [plain.encode(text, add_special_tokens=False).ids for text in texts]


def split(ids, lengths):
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]


def test_ids_and_lengths_are_those_of_one_text_after_the_other(trained, texts):
    given = [*HARD_STRINGS, *texts]
    ids, lengths = encode(trained, given)
    assert (ids.dtype, lengths.dtype) == (np.uint16, np.int64)
    assert split(ids, lengths) == one_by_one(trained, given)


@pytest.mark.parametrize("batch_characters", [1, 100, 5_000])
def test_batching_changes_nothing(monkeypatch, bpe, texts, batch_characters):
    expected = encode(bpe, texts)
    monkeypatch.setattr(module, "BATCH_CHARACTERS", batch_characters)
    for a, b in zip(encode(bpe, texts), expected, strict=True):
        assert np.array_equal(a, b)


def test_no_texts_give_no_ids(bpe):
    ids, lengths = encode(bpe, [])
    assert (len(ids), len(lengths)) == (0, 0)


def test_a_literal_control_token_is_only_characters(trained):
    text = "".join(SPECIAL_TOKENS) + " <|eos|>"
    ids, _ = encode(trained, [text])
    assert ids.min() >= len(SPECIAL_TOKENS)
    assert trained.decode(ids.tolist(), skip_special_tokens=False) == text


def test_the_tokenizer_itself_is_left_as_it_was(bpe):
    bpe.enable_truncation(3)
    try:
        _, lengths = encode(bpe, ["one two three four five six"])
        assert lengths[0] > 3
        assert bpe.truncation is not None
        assert bpe.encode("<|eos|>").ids == [1]
    finally:
        bpe.no_truncation()


def test_a_vocabulary_that_cannot_tell_text_from_control_is_refused():
    vocabulary = [("<unk>", 0.0), ("</s>", -1.0), ("a", -2.0), ("<", -3.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.add_special_tokens([AddedToken("</s>", special=True), AddedToken("<unk>", special=True)])
    with pytest.raises(ValueError, match="text 2 holds '</s>'"):
        encode(tokenizer, ["a", "", "</s>a"])
    assert encode(tokenizer, ["a?"])[0].tolist() == [2, 0]


@pytest.mark.parametrize(("largest", "dtype"), [(65_535, np.uint16), (65_536, np.uint32)])
def test_the_type_follows_the_largest_id(largest, dtype):
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": largest}, []))
    ids, _ = encode(tokenizer, ["ab"])
    assert ids.dtype == dtype
    assert ids.tolist() == [0, largest]


def fast_from_here(monkeypatch):
    pytest.importorskip("gigatoken", reason="the extra `fast` is not installed")
    monkeypatch.setattr(module, "FAST_FROM_CHARACTERS", 0)


def test_gigatoken_gives_the_same_ids(monkeypatch, bpe, texts):
    fast_from_here(monkeypatch)
    given = [*texts, *HARD_STRINGS]
    assert module._encode_fast(module._prepare(bpe.to_str()), given) is not None
    assert split(*encode(bpe, given)) == one_by_one(bpe, given)


def test_gigatoken_is_left_out_where_it_does_not_know_the_model(monkeypatch, unigram):
    fast_from_here(monkeypatch)
    assert module._prepare(unigram.to_str()).fast is None


class Liar:
    """Encodes like gigatoken, but for one id."""

    def __init__(self, fast):
        self.fast = fast

    def encode_batch(self, texts):
        import awkward

        rows = awkward.to_list(self.fast.encode_batch(texts))
        return awkward.Array([[*row[:-1], 263] if row else row for row in rows])


def test_an_encoder_that_differs_on_a_sample_is_not_used(monkeypatch, bpe, texts):
    fast_from_here(monkeypatch)
    prepared = module._prepare(bpe.to_str())
    lying = dataclasses.replace(prepared, fast=Liar(prepared.fast))
    assert module._encode_fast(lying, texts) is None
    monkeypatch.setattr(module, "_prepare", lambda serialized: lying)
    assert split(*encode(bpe, texts)) == one_by_one(bpe, texts)
