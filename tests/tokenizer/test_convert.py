"""Catches a SentencePiece model that becomes another tokenizer on the way."""

import io

import pytest
import sentencepiece

from tokenizer.convert import from_sentencepiece
from tokenizer.encode import encode

SENTENCES = [
    "the  cat sat on the mat",
    " leading and trailing ",
    "caf\u00e9 \uff21\uff22 \u6f22 \U0001f600",
    "",
    "tab\tand\nline",
    "x" * 50,
    "don't 12,345.6",
]


def model(tmp_path, **options):
    written = io.BytesIO()
    lines = iter(["the cat sat on the mat", "and the dog lay on the log", "while one bird sang"] * 20)
    defaults = {"vocab_size": 330, "byte_fallback": True, "hard_vocab_limit": False, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=written, **(defaults | options)
    )
    path = tmp_path / "made.model"
    path.write_bytes(written.getvalue())
    return path


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
@pytest.mark.parametrize("normalization", ["identity", "nmt_nfkc"])
@pytest.mark.parametrize("spaces", [True, False])
def test_ids_are_those_of_sentencepiece(tmp_path, model_type, normalization, spaces):
    options = {"add_dummy_prefix": spaces, "remove_extra_whitespaces": spaces}
    size = 290 if model_type == "bpe" else 330
    path = model(
        tmp_path, model_type=model_type, normalization_rule_name=normalization, vocab_size=size, **options
    )
    converted = from_sentencepiece(path, SENTENCES)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(path))
    for text in SENTENCES:
        assert encode(converted, [text])[0].tolist() == reference.encode(text)
        assert converted.decode(reference.encode(text)) == reference.decode(reference.encode(text))


def test_unknown_characters_without_byte_fallback(tmp_path):
    path = model(tmp_path, model_type="unigram", byte_fallback=False, vocab_size=60)
    converted = from_sentencepiece(path, ["a \u6f22\u5b57 cat"])
    assert 0 in encode(converted, ["a \u6f22\u5b57 cat"])[0]


def test_a_difference_is_named(tmp_path):
    path = model(tmp_path, model_type="unigram")
    with pytest.raises(ValueError, match=r"ids differ on 'a <0x41> b'"):
        from_sentencepiece(path, ["the cat", "a <0x41> b"])


def test_a_word_model_and_a_missing_file_are_refused(tmp_path):
    path = model(tmp_path, model_type="word", byte_fallback=False)
    with pytest.raises(ValueError, match="word or character model"):
        from_sentencepiece(path, [])
    with pytest.raises(ValueError, match="no SentencePiece model at"):
        from_sentencepiece(tmp_path / "absent.model", [])
