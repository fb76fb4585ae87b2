"""How well a tokenizer fits texts: compression, words cut up, entries never used, strings that come back exactly."""

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from tokenizer.encode import encode


def evaluate(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, int | float]:
    """Deterministic figures of `tokenizer` on `texts`.

    Returns:
        texts, bytes (UTF-8), tokens, words (runs without white space): counts;
        bytes_per_token, tokens_per_word: ratios of the sums, not means of ratios;
        unused_vocabulary: share of the ordinary entries that no text uses;
        exact_round_trips: texts that decode to themselves.

    Raises:
        ValueError: the texts hold no word.
    """
    words = sum(len(text.split()) for text in texts)
    if words == 0:
        raise ValueError(
            f"nothing to evaluate: {len(texts)} texts without a word\nexpected: at least one text"
        )
    ids, lengths = encode(tokenizer, texts)
    size = sum(len(text.encode()) for text in texts)
    return {
        "texts": len(texts),
        "bytes": size,
        "tokens": len(ids),
        "words": words,
        "bytes_per_token": size / len(ids),
        "tokens_per_word": len(ids) / words,
        "unused_vocabulary": _unused(tokenizer, ids),
        "exact_round_trips": _exact(tokenizer, texts, ids, lengths),
    }


def _unused(tokenizer: Tokenizer, ids: np.ndarray) -> float:
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ordinary = set(tokenizer.get_vocab(with_added_tokens=True).values()) - special
    return len(ordinary - set(np.unique(ids).tolist())) / len(ordinary)


def _exact(tokenizer: Tokenizer, texts: Sequence[str], ids: np.ndarray, lengths: np.ndarray) -> int:
    parts = np.split(ids, np.cumsum(lengths)[:-1])
    decoded = tokenizer.decode_batch([part.tolist() for part in parts], skip_special_tokens=False)
    return sum(text == back for text, back in zip(texts, decoded, strict=True))
