"""Catches a trained tokenizer that loses text, differs from run to run, or has another size than asked."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.tiny_model import TEXT
from tests.tokenizer.conftest import HARD_STRINGS
from tokenizer.special import SPECIAL_TOKENS
from tokenizer.train import LONGEST_RUN, SMALLEST_VOCABULARY, Shortened, VocabularyError, train

TRAIN_AND_HASH = """
import hashlib, inspect, argparse, textwrap
from tokenizer.train import train
tokenizer = train([inspect.getsource(argparse), inspect.getsource(textwrap)], 400, {algorithm!r})
print(hashlib.sha256(tokenizer.to_str().encode()).hexdigest())
"""


@pytest.mark.parametrize("text", HARD_STRINGS)
def test_hard_string_round_trips(trained, text):
    ids = trained.encode(text, add_special_tokens=False).ids
    if not any(token in text for token in SPECIAL_TOKENS):
        assert max(ids, default=7) >= len(SPECIAL_TOKENS)
    assert trained.decode(ids, skip_special_tokens=False) == text


def test_every_character_round_trips(trained):
    points = [*range(0xD800), *range(0xE000, 0x30000), 0x10FFFF]  # surrogates and unassigned planes left out
    text = "".join(map(chr, points))
    assert trained.decode(trained.encode(text).ids, skip_special_tokens=False) == text


def test_control_tokens_have_the_first_ids(trained):
    assert [trained.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(7))
    assert trained.encode("".join(SPECIAL_TOKENS)).ids == list(range(7))


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_same_texts_give_the_same_bytes_in_every_process(algorithm):
    script = TRAIN_AND_HASH.format(algorithm=algorithm)
    root = Path(__file__).parents[2]
    hashes = {
        subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(hashes) == 1


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_the_largest_vocabulary_named_in_the_refusal_can_be_trained(texts, algorithm):
    with pytest.raises(VocabularyError, match="support only") as refused:
        train(texts[-1:], 50_000, algorithm)
    supported = int(re.search(r"support only (\d+)", str(refused.value)).group(1))
    assert train(texts[-1:], supported, algorithm).get_vocab_size() == supported
    with pytest.raises(VocabularyError):
        train(texts[-1:], supported + 1, algorithm)


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_no_text_supports_the_bytes_alone(algorithm):
    with pytest.raises(VocabularyError, match=f"support only {SMALLEST_VOCABULARY}"):
        train([], 300, algorithm)


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_a_vocabulary_without_room_for_the_bytes_is_refused(texts, algorithm):
    with pytest.raises(VocabularyError, match="at least 263"):
        train(texts, SMALLEST_VOCABULARY - 1, algorithm)


@pytest.mark.parametrize(
    ("text", "pieces"), [("12345", ["123", "45"]), ("\n\n    return", ["ĊĊ", "ĠĠĠ", "Ġreturn"])]
)
def test_digits_split_in_threes_and_indentation_keeps_together(bpe, text, pieces):
    assert [piece for piece, _ in bpe.pre_tokenizer.pre_tokenize_str(text)] == pieces


def test_long_runs_are_cut_for_training_and_counted():
    """Uncut, 100,000 letters took 4 s and twice as many 40 s: pairs of one word are counted in its square."""
    texts = ["so it is", "a" * 2500 + " so", " " * 1000, " " * 2001 + "x"]
    shortened = Shortened(texts)
    pieces = list(shortened)
    assert "".join(pieces) == "".join(texts)
    assert [len(piece) for piece in pieces] == [8, 1000, 1000, 503, 1000, 1000, 1000, 2]
    assert shortened.cut == 4


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_a_text_without_long_runs_is_trained_on_as_it_is(algorithm):
    run = "ab" * (LONGEST_RUN // 2)
    texts = [TEXT, f"{run} {run}"]
    assert list(Shortened(texts)) == texts
    assert train([TEXT * 9, run * 50], 280, algorithm).encode(run).ids


def test_a_long_run_trains_in_seconds():
    """A megabyte of one letter: hours of pairs, were it one word."""
    assert train([TEXT * 9, "a" * 1_000_000], 290, "bpe").get_vocab_size() == 290
