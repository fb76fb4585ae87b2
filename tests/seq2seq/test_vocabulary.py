"""Catches a tokenizer that is not SentencePiece's, loses a byte, or misses its end; pairs that are too long unseen."""

import numpy as np
import pytest
import sentencepiece

from pipeline.run.errors import UserError
from recipes.seq2seq import vocabulary
from recipes.seq2seq.config import Tokenizer
from tests.seq2seq.cases import sentences

TEXTS = [text for pair in sentences(300) for text in pair]


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_it_is_sentencepieces_own_ends_its_texts_and_loses_no_byte(tmp_path, algorithm):
    settings = Tokenizer(algorithm=algorithm, vocabulary_size=340, sentinels=3)
    vocabulary.train(TEXTS, settings, tmp_path / "source")
    vocabulary.train(TEXTS, settings, tmp_path / "target")
    tokenizer, _ = vocabulary.load(tmp_path)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "source" / "spiece.model"))
    for text in [*TEXTS[:50], "Grüße, 日本 🙂 hund", "a  b"]:
        ids = tokenizer(text)["input_ids"]
        assert ids == [*reference.encode(text), vocabulary.EOS]
        assert tokenizer.decode(ids, skip_special_tokens=True) == reference.decode(ids[:-1])
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    gaps = tokenizer.convert_tokens_to_ids(vocabulary.sentinels(settings))
    assert len(set(gaps)) == 3 and tokenizer.decode(gaps[0]) == "<extra_id_0>"
    assert tokenizer("hund <extra_id_1> katze")["input_ids"].count(gaps[1]) == 1


def test_two_vocabularies_are_learnt_apart_and_a_joint_one_together(tmp_path):
    sides = tuple(map(list, zip(*sentences(300), strict=True)))
    vocabulary.train_both(sides, Tokenizer(vocabulary_size=300, joint=False), tmp_path / "apart")
    vocabulary.train_both(sides, Tokenizer(vocabulary_size=340), tmp_path / "joint")
    source, target = vocabulary.load(tmp_path / "apart")
    assert "▁hund" in source.get_vocab() and "▁hund" not in target.get_vocab()
    source, target = vocabulary.load(tmp_path / "joint")
    assert source.get_vocab() == target.get_vocab()


def test_more_pieces_than_the_texts_support_are_refused(tmp_path):
    with pytest.raises(
        UserError, match="tokenizer.vocabulary_size = 9000: .*\nway out: fewer pieces, or more pairs"
    ):
        vocabulary.train(TEXTS, Tokenizer(vocabulary_size=9000), tmp_path)
    with pytest.raises(UserError, match="nothing has no tokenizer that can be read"):
        vocabulary.bring(str(tmp_path / "nothing"), tmp_path)


def test_long_pairs_are_refused_with_the_way_out_or_left_out_and_counted(tmp_path):
    from types import SimpleNamespace

    from recipes.seq2seq.train import _require_short
    from tests.seq2seq.cases import write_ids

    write_ids(tmp_path, "train", 40)
    read = (np.load(tmp_path / f"train.{side}.offsets.npy") for side in ("source", "target"))
    lengths = [np.diff(offsets) for offsets in read]
    longer = int((np.maximum(*lengths) > 12).sum())
    training = SimpleNamespace(max_length=12, on_long="error")
    said = f"{longer} of 40 training pairs .*\nway out: train.max_length=.* train.on_long=drop"
    with pytest.raises(UserError, match=said):
        _require_short(SimpleNamespace(train=training), tmp_path)
    training.on_long = "drop"
    assert _require_short(SimpleNamespace(train=training), tmp_path) == longer
