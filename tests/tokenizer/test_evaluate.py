"""Catches figures that are means of ratios, count control tokens as unused, or miss a text that does not come back."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tokenizer.evaluate import evaluate
from tokenizer.train import train


def test_figures_of_two_texts_by_hand():
    tokenizer = train(["aa aa"], 264, "bpe")  # bytes, and the one merge "aa"
    figures = evaluate(tokenizer, ["aaaa a", "\u00e9"])
    assert figures == {
        "texts": 2,
        "bytes": 8,
        "tokens": 6,
        "words": 3,
        "bytes_per_token": 8 / 6,
        "tokens_per_word": 2.0,
        "unused_vocabulary": (257 - 5) / 257,
        "exact_round_trips": 2,
    }


def test_a_text_that_does_not_come_back_is_not_counted():
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="b"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece()
    assert evaluate(tokenizer, ["a b", "a  b", "c"])["exact_round_trips"] == 1


def test_nothing_to_evaluate_is_refused(bpe):
    with pytest.raises(ValueError, match="2 texts without a word"):
        evaluate(bpe, ["", " "])
