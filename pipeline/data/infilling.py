"""Documents as a model learns to fill gaps in: what stands before, what stands behind, then the middle.

Prefix, suffix, middle, cut at characters (Bavarian et al. 2022, arXiv:2207.14255, "PSM").
"""

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.data.config import Corpus
from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Marks(NamedTuple):
    """The ids of the tokens that open the three parts."""

    before: int
    behind: int
    middle: int


def marks_of(corpus: Corpus, tokenizer: "PreTrainedTokenizerFast") -> Marks:
    """The ids of corpus.fim_tokens.

    Raises:
        UserError: the tokenizer has not all of them.
    """
    known = tokenizer.get_vocab()
    missing = [token for token in corpus.fim_tokens if token not in known]
    if missing:
        raise UserError(
            f"corpus.fim: the tokenizer has no token {missing[0]!r}\n"
            f"way out: model.add_special_tokens={list(corpus.fim_tokens)}, or corpus.fim_tokens as the model has them"
        )
    return Marks(*(known[token] for token in corpus.fim_tokens))


def parts_of(key: str, text: str, share: float) -> tuple[str, str, str] | None:
    """(before, middle, behind) of a document that is to be learnt so, by a hash of its key; None: as it is."""
    seed = int.from_bytes(hashlib.sha256(f"fim {key}".encode()).digest()[:8], "big")
    random = np.random.default_rng(seed)
    if random.random() >= share:
        return None
    first, last = sorted(random.integers(0, len(text) + 1, 2).tolist())
    return text[:first], text[first:last], text[last:]
