"""Train a byte-level tokenizer, BPE or Unigram: every string round-trips, and the same texts give the same bytes."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tokenizer.special import SPECIAL_TOKENS

# Words with the character before them, digits in threes, punctuation with the line ends after it, line ends, spaces.
# It is the pattern of Llama 3: readers outside Python (llama.cpp, gigatoken) know a fixed list of patterns by heart and
# refuse any other. Patterns of our own that keep a line end and its indentation together gave 2.1 % more bytes a token.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ALPHABET = tuple(sorted(pre_tokenizers.ByteLevel.alphabet()))
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + len(ALPHABET)
LONGEST_UNIGRAM_PIECE = 32  # bytes
LONGEST_RUN = 1_000  # characters: both algorithms take the square of a pre-token's length
LONG_RUN = re.compile(rf"\S{{{LONGEST_RUN}}}(?=\S)|\s{{{LONGEST_RUN}}}(?=\s)")
SCORE_DECIMALS = (
    6  # tokenizers reads longer decimals inexactly: a saved file would change when loaded and saved again
)


class VocabularyError(ValueError):
    """The texts do not support the vocabulary that was asked for."""


class Shortened:
    """Texts cut where LONGEST_RUN characters stand without a space between them, or as many spaces; for training alone.

    cut: how many times so far.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts, self.cut = texts, 0

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            begin = 0
            for run in LONG_RUN.finditer(text):
                yield text[begin : run.end()]
                begin = run.end()
                self.cut += 1
            yield text[begin:]


def train(texts: Iterable[str], vocabulary_size: int, algorithm: Literal["bpe", "unigram"]) -> Tokenizer:
    """A tokenizer of exactly `vocabulary_size` entries, the control tokens (ids 0 to 6) and all 256 bytes among them.

    Texts are cut by `PATTERN` and taken as bytes, so no string is out of vocabulary and every string decodes to itself.
    A literal control token in a text counts as ordinary characters. BPE: Sennrich et al. 2016, on bytes as in GPT-2.
    Unigram: Kudo 2018.

    Args:
        texts: read once, in order; long runs are cut as Shortened does.
        vocabulary_size: entries, at least 263.
        algorithm: `bpe` or `unigram`.

    Raises:
        VocabularyError: `vocabulary_size` is below 263, or above what the texts support (the number is named).
    """
    if vocabulary_size < SMALLEST_VOCABULARY:
        raise VocabularyError(
            f"vocabulary of {vocabulary_size} entries\nexpected: at least {SMALLEST_VOCABULARY}"
            f" ({len(SPECIAL_TOKENS)} control tokens and {len(ALPHABET)} bytes)"
        )
    texts = texts if isinstance(texts, Shortened) else Shortened(texts)
    trained = (
        _train_bpe(texts, vocabulary_size) if algorithm == "bpe" else _train_unigram(texts, vocabulary_size)
    )
    if trained.get_vocab_size() < vocabulary_size:
        raise too_large(vocabulary_size, trained.get_vocab_size())
    return trained


def supported(texts: Iterable[str], at_most: int) -> Tokenizer:
    """A byte-level BPE as train makes it, with fewer entries than `at_most` where the texts support no more."""
    return _train_bpe(Shortened(texts), at_most)


def too_large(asked: int, supported: int) -> VocabularyError:
    """The refusal of a vocabulary of `asked` entries where the texts support `supported`."""
    return VocabularyError(
        f"vocabulary of {asked} entries, but the texts support only {supported}\n"
        f"expected: a vocabulary of at most {supported} entries, or more text"
    )


def _assemble(model: models.Model) -> Tokenizer:
    """`model` between the byte-level pre-tokenizer and decoder. No post-processor: framing is the caller's."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _train_bpe(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    tokenizer = _assemble(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        initial_alphabet=list(ALPHABET),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _train_unigram(texts: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """Trained by SentencePiece, on counted words and one thread, so that every run gives the same scores.

    The Unigram trainer of `tokenizers` sums in the order of a hash map: its scores differ from run to run.
    """
    words = _word_counts(texts)
    absent = sorted(set(ALPHABET) - set("".join(words)))
    fixed = len(SPECIAL_TOKENS) + len(absent)
    pieces = _unigram_pieces(words, vocabulary_size - fixed, vocabulary_size, fixed)
    lowest = min((score for _, score in pieces), default=0.0)
    vocabulary = (
        [(token, 0.0) for token in SPECIAL_TOKENS]
        + pieces
        + [(byte, round(lowest - 1.0, SCORE_DECIMALS)) for byte in absent]
    )
    tokenizer = _assemble(models.Unigram(vocabulary, unk_id=None))
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def _word_counts(texts: Iterable[str]) -> Counter[str]:
    """How often each pre-token occurs; a byte is written as its character of `ALPHABET`."""
    pre_tokenizer = _assemble(models.BPE()).pre_tokenizer
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in pre_tokenizer.pre_tokenize_str(text))
    return counts


def _unigram_pieces(words: Counter[str], size: int, asked: int, fixed: int) -> list[tuple[str, float]]:
    """`size` pieces with their log probabilities; `asked` and `fixed`, entries beside them, are for the refusal."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    if not words:
        raise too_large(asked, fixed)
    rows = (f"{word}\t{count}" for word, count in sorted(words.items(), key=lambda item: (-item[1], item[0])))
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=rows, model_writer=written, vocab_size=size + 1, **_SENTENCEPIECE_OPTIONS
        )
    except RuntimeError as error:
        limit = re.search(r"set it to a value <= (\d+)", str(error))
        if limit is None:
            raise
        raise too_large(asked, int(limit.group(1)) - 1 + fixed) from None
    model = sentencepiece_model_pb2.ModelProto.FromString(written.getvalue())
    return [(piece.piece, round(piece.score, SCORE_DECIMALS)) for piece in model.pieces[1:]]


_SENTENCEPIECE_OPTIONS = {
    "model_type": "unigram",
    "input_format": "tsv",
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "split_by_whitespace": False,
    "split_by_unicode_script": False,
    "split_by_number": False,
    "character_coverage": 1.0,
    "max_sentencepiece_length": LONGEST_UNIGRAM_PIECE,
    "max_sentence_length": 1 << 30,
    "unk_id": 0,
    "bos_id": -1,
    "eos_id": -1,
    "pad_id": -1,
    "num_threads": 1,
    "minloglevel": 2,
}
