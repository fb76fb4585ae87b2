"""Catches a BLEU that is not sacreBLEU's, an interval that does not hold it, a baseline that is none."""

import os

import pytest

from recipes.seq2seq.scores import WordForWord, repeated_share, scores_of
from tests.seq2seq.cases import WORDS, sentences


def test_bleu_and_chrf_are_sacrebleus_with_signature_and_interval():
    import sacrebleu

    references = [target for _, target in sentences(60)]
    written = [" ".join(text.split()[:-1] + ["cat"]) for text in references]
    bleu, chrf = scores_of("model", written, references, 100)
    assert bleu.value == pytest.approx(sacrebleu.corpus_bleu(written, [references]).score)
    assert chrf.value == pytest.approx(sacrebleu.corpus_chrf(written, [references]).score)
    for score in (bleu, chrf):
        assert score.interval[0] < score.value < score.interval[1] and score.count == 60
        assert "version:" in score.protocol and "bs:100" in score.protocol
    assert "tok:13a" in bleu.protocol and "SACREBLEU_SEED" not in os.environ
    assert scores_of("model", written, references, 100) == [bleu, chrf]


def test_a_perfect_system_has_all_and_a_silent_one_nothing():
    references = [target for _, target in sentences(30) if len(target.split()) > 3]
    assert [round(score.value) for score in scores_of("a", references, references, 20)] == [100, 100]
    assert [score.value for score in scores_of("b", [""] * len(references), references, 20)] == [0, 0]


def test_word_for_word_finds_the_words_of_a_language_that_is_one():
    translate = WordForWord(sentences(300))
    assert {word: translate(word).lower() for word in WORDS} == WORDS
    assert translate("Hund, katze unbekannt.") == "Dog, cat unbekannt."


def test_a_system_that_says_one_thing_is_found_out():
    assert repeated_share(["a", "a", "b", "c"]) == 0.5
    assert repeated_share(["a", "b"]) == 0
