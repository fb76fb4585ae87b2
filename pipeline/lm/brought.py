"""A tokenizer that a recipe brings for a model from scratch, in place of training one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.lm.config import Tokenizer
from pipeline.run.errors import UserError
from pipeline.run.outside import files_below

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def load_brought(given: Tokenizer) -> tuple[PreTrainedTokenizerFast, Path | None]:
    """The tokenizer, with the recipe's chat template where it gives one; and the directory of its files, if it has one.

    Raises:
        UserError: nothing is there or reachable, it is no tokenizer, or `chat_template` cannot be read.
    """
    name = str(given.pretrained)
    tokenizer, origin = _loaded(name)
    if given.chat_template is None:
        return tokenizer, origin
    try:
        tokenizer.chat_template = Path(given.chat_template).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tokenizer.chat_template: cannot read {given.chat_template}: {error}") from None
    return tokenizer, None


@cache
def _loaded(name: str) -> tuple[PreTrainedTokenizerFast, Path | None]:
    from transformers import AutoTokenizer
    from transformers.utils import cached_file

    path = Path(name).expanduser()
    if path.is_file():
        return (_of_json(path) if path.suffix == ".json" else _of_sentencepiece(path)), None
    if not path.exists() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UserError(
            f"tokenizer.pretrained: nothing at {name}\n"
            "expected: a directory, a tokenizer.json, a SentencePiece .model, or a name of the Hub"
        )
    try:
        found = AutoTokenizer.from_pretrained(str(path) if path.is_dir() else name)
        origin = path if path.is_dir() else Path(str(cached_file(name, "tokenizer_config.json"))).parent
    except (OSError, ValueError) as error:
        raise UserError(f"tokenizer.pretrained {name}: {' '.join(str(error).split())[:200]}") from None
    if not getattr(found, "is_fast", False):
        raise UserError(f"tokenizer.pretrained {name} has no fast form\nexpected: one with a tokenizer.json")
    return found, origin


def _of_json(path: Path) -> PreTrainedTokenizerFast:
    """A bare tokenizer.json: bos and eos by the names that they usually have."""
    from tokenizer.files import load

    try:
        return _wrapped(load(path.parent) if path.name == "tokenizer.json" else _parsed(path))
    except ValueError as error:
        raise UserError(f"tokenizer.pretrained: {error}") from None


def _parsed(path: Path):
    from tokenizers import Tokenizer as Backend

    try:
        return Backend.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception for every malformed file
        raise ValueError(f"{path} is no tokenizer: {' '.join(str(error).split())[:200]}") from None


def _of_sentencepiece(path: Path) -> PreTrainedTokenizerFast:
    from tokenizer.convert import from_sentencepiece
    from tokenizer.encode import HARD_STRINGS

    try:
        # The first of them spells control tokens, which SentencePiece never reads and rows are encoded without.
        return _wrapped(from_sentencepiece(path, HARD_STRINGS[1:]))
    except ValueError as error:
        raise UserError(f"tokenizer.pretrained: {error}") from None


USUAL = {
    "bos_token": ("<|bos|>", "<s>", "<bos>", "<|begin_of_text|>", "[CLS]"),
    "eos_token": ("<|eos|>", "</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "[SEP]"),
    "pad_token": ("<|pad|>", "<pad>", "[PAD]"),
    "unk_token": ("<unk>", "[UNK]"),
}


def _wrapped(backend) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    known = backend.get_vocab()
    named = {role: next((name for name in names if name in known), None) for role, names in USUAL.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **{role: name for role, name in named.items() if name}
    )


def vocabulary_of(given: Tokenizer) -> int:
    """Entries of the tokenizer that a recipe trains or brings; where ids have gaps, one more than the largest.

    Raises:
        UserError: as load_brought.
    """
    if given.pretrained is None:
        return given.vocabulary_size
    return max(load_brought(given)[0].get_vocab().values()) + 1


def outside_files(given: Tokenizer | None) -> dict[str, Path]:
    """The files that a brought tokenizer is read from, where they are this machine's."""
    if given is None or given.pretrained is None:
        return {}
    template = {"chat template": Path(given.chat_template).expanduser()} if given.chat_template else {}
    path = Path(given.pretrained).expanduser()
    return (files_below(path) if path.exists() else {}) | template
