"""Texts -> one numpy array of ids: control tokens never come out of a text, however it is written."""

import importlib.util
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from tokenizers import Tokenizer

BATCH_CHARACTERS = 4_000_000  # encoded at a time: bounds the memory of the per-token Python objects
FAST_FROM_CHARACTERS = 2_000_000  # below this gigatoken's set-up and gate cost more than they save
GATE_CHARACTERS = 100_000  # of the texts at hand, encoded by both before gigatoken is believed

HARD_STRINGS = (
    "<|bos|> <|eos|> </s> [MASK]",
    "a\r\nb\r\n\t\t\n \n  x \u00a0\u2003y",
    "\x00\x01\x7f\ufeff\ufffd\ufffe",
    "'S 'LL it's I'Ve \u017f '\u017f",
    "\u0130\u0131\u1e9e e\u0301 \u0915\u094d\u0937 \u200d\U0001f469\u200d\U0001f4bb \u6f22\u5b57",
    "1234567 \u0663\u0664\u0665 \u2167\u00bd\u00b2 x1y22z333 1.5e-10",
    "_name __init__(self, *args) -> None:\n        return {}\n\n\n",
)


@dataclass(frozen=True)
class _Prepared:
    """A tokenizer made ready to encode documents.

    plain: a copy blind to control tokens; control: bool by id; dtype: of ids; fast: gigatoken's copy, or none.
    """

    plain: Tokenizer
    control: np.ndarray
    dtype: np.dtype
    fast: Any


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids of all texts, one after the other, without bos or eos, never truncated or padded.

    What looks like a control token in a text is encoded as the characters it is made of. With the extra `fast`,
    gigatoken encodes, but only once it gave the ids of `tokenizers` on hard strings and on a sample of these texts.

    Args:
        texts: any strings that are valid Unicode (no lone surrogates).

    Returns:
        ids, shape (tokens,): uint16 where every id of the vocabulary fits, else uint32;
        lengths, shape (len(texts),), int64: tokens of each text.

    Raises:
        ValueError: a text comes out with a control token nevertheless (some converted vocabularies do that).
    """
    prepared = _prepare(tokenizer.to_str())
    ids, lengths = _encode_fast(prepared, texts) or _encode_plain(prepared.plain, texts)
    _refuse_control_tokens(prepared, ids, lengths)
    return ids.astype(prepared.dtype, copy=False), lengths


@lru_cache(maxsize=4)
def _prepare(serialized: str) -> _Prepared:
    plain = Tokenizer.from_str(serialized)
    plain.encode_special_tokens = True
    plain.no_truncation()
    plain.no_padding()
    ids = plain.get_vocab(with_added_tokens=True).values()
    largest_id = max(ids)  # ids may have gaps: not the number of entries
    unknown = _unknown_id(plain, serialized)
    added = plain.get_added_tokens_decoder()
    control = np.zeros(largest_id + 1, dtype=bool)
    control[[i for i, token in added.items() if token.special and i != unknown]] = True
    dtype = np.dtype(np.uint16 if largest_id <= np.iinfo(np.uint16).max else np.uint32)
    return _Prepared(plain, control, dtype, _load_gigatoken(plain, serialized))


def _unknown_id(tokenizer: Tokenizer, serialized: str) -> int | None:
    """The id that stands for characters outside the vocabulary: special by flag, ordinary by use."""
    model = json.loads(serialized)["model"]
    if model.get("unk_id") is not None:
        return model["unk_id"]
    return tokenizer.token_to_id(model["unk_token"]) if model.get("unk_token") else None


def _encode_plain(plain: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    parts = [np.zeros(0, dtype=np.uint32)]
    lengths = np.zeros(len(texts), dtype=np.int64)
    for start, stop in _batches(texts):
        encodings = plain.encode_batch_fast(texts[start:stop], add_special_tokens=False)
        for position, encoding in enumerate(encodings, start):
            parts.append(np.array(encoding.ids, dtype=np.uint32))
            lengths[position] = len(parts[-1])
    return np.concatenate(parts), lengths


def _batches(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Consecutive (start, stop), each of about `BATCH_CHARACTERS` characters."""
    bounds, held = [0], 0
    for position, text in enumerate(texts, 1):
        held += len(text)
        if held >= BATCH_CHARACTERS or position == len(texts):
            bounds.append(position)
            held = 0
    return list(itertools.pairwise(bounds))


def _refuse_control_tokens(prepared: _Prepared, ids: np.ndarray, lengths: np.ndarray) -> None:
    found = np.flatnonzero(prepared.control[ids])
    if not len(found):
        return
    text = int(np.searchsorted(np.cumsum(lengths), found[0], side="right"))
    token = prepared.plain.id_to_token(int(ids[found[0]]))
    raise ValueError(
        f"text {text} holds {token!r}, which this tokenizer turns into its control token\n"
        "expected: text without the tokenizer's control tokens; take it out of the text"
    )


def _load_gigatoken(plain: Tokenizer, serialized: str) -> Any:
    """gigatoken's copy of the tokenizer, or none: not installed, refused by it, or not equal on the hard strings.

    It takes control tokens out of texts and cannot be told not to, so its copy is made without them.
    """
    if importlib.util.find_spec("gigatoken") is None:
        return None
    import gigatoken

    tree = json.loads(serialized)
    tree["added_tokens"] = [token for token in tree["added_tokens"] if not token["special"]]
    try:
        fast = gigatoken.Tokenizer.from_json(json.dumps(tree))
    except RuntimeError:  # a model or pattern that it does not know: its documented refusal
        return None
    return fast if _same_ids(plain, fast, HARD_STRINGS) else None


def _encode_fast(prepared: _Prepared, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """None where gigatoken is not to be had, does not pay, or differs on a sample of these very texts."""
    if prepared.fast is None or sum(map(len, texts)) < FAST_FROM_CHARACTERS:
        return None
    if not _same_ids(prepared.plain, prepared.fast, _sample(texts)):
        return None
    return _run_gigatoken(prepared.fast, texts)


def _run_gigatoken(fast: Any, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    import awkward

    encoded = fast.encode_batch(list(texts))
    lengths = awkward.to_numpy(awkward.num(encoded)).astype(np.int64)
    return awkward.to_numpy(awkward.flatten(encoded)).astype(np.uint32, copy=False), lengths


def _same_ids(plain: Tokenizer, fast: Any, texts: Sequence[str]) -> bool:
    expected, given = _encode_plain(plain, texts), _run_gigatoken(fast, texts)
    return all(np.array_equal(a, b) for a, b in zip(expected, given, strict=True))


def _sample(texts: Sequence[str]) -> list[str]:
    """At most 64 texts, evenly spaced, each cut so that all of them are `GATE_CHARACTERS`."""
    chosen = texts[:: max(1, len(texts) // 64)][:64]
    return [text[: GATE_CHARACTERS // len(chosen)] for text in chosen]
