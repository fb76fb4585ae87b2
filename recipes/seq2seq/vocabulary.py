"""The tokenizers of both sides: SentencePiece models trained on pairs, or those that a pretrained model brings."""

import io
import shutil
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.run.errors import UserError
from recipes.seq2seq.config import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD, EOS, UNK = 0, 1, 2  # as T5 has them; a target's first input is the pad
SIDES = ("source", "target")
COMPARED = 200  # texts on which the converted tokenizer is compared with the sentencepiece library
LONGEST = 16_384  # bytes of a text that its trainer takes
TEXTS = 100_000  # that pieces are learnt from, evenly over all: of 760,000 it took three minutes


def train(texts: Iterable[str], settings: Tokenizer, out: Path) -> None:
    """Write spiece.model and what transformers reads, the same tokenizer, to `out`.

    Raises:
        UserError: the texts do not support so many pieces.
    """
    import sentencepiece
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    from tokenizer.convert import from_sentencepiece

    texts, written = list(texts), io.BytesIO()
    some = texts[:: -(-len(texts) // TEXTS)]
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(some),
            model_writer=written,
            model_type=settings.algorithm,
            vocab_size=settings.vocabulary_size,
            byte_fallback=True,
            pad_id=PAD,
            eos_id=EOS,
            unk_id=UNK,
            bos_id=-1,
            user_defined_symbols=sentinels(settings),
            max_sentence_length=LONGEST,
            num_threads=1,  # so that the pieces are the same on every machine
            minloglevel=2,
        )
    except RuntimeError as error:
        said = " ".join(str(error).split())[-200:]
        raise UserError(
            f"tokenizer.vocabulary_size = {settings.vocabulary_size}: {said}\nway out: fewer pieces, or more pairs"
        ) from None
    out.mkdir(parents=True, exist_ok=True)
    (out / "spiece.model").write_bytes(written.getvalue())
    backend = from_sentencepiece(out / "spiece.model", texts[:: max(1, len(texts) // COMPARED)][:COMPARED])
    backend.post_processor = TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", EOS)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=sentinels(settings),
    ).save_pretrained(out)


def sentinels(settings: Tokenizer) -> list[str]:
    """The tokens that stand for gaps, by T5's names."""
    return [f"<extra_id_{number}>" for number in range(settings.sentinels)]


def train_both(sides: tuple[list[str], list[str]], settings: Tokenizer, out: Path) -> None:
    """Write `source/` and `target/` below `out`: of a joint model, the same twice."""
    if settings.joint:
        train(chain(*sides), settings, out / SIDES[0])
        shutil.copytree(out / SIDES[0], out / SIDES[1])
        return
    for side, own in zip(SIDES, sides, strict=True):
        train(own, settings, out / side)


def load(directory: Path) -> "tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]":
    """(of sources, of targets)."""
    from transformers import AutoTokenizer

    source, target = (AutoTokenizer.from_pretrained(directory / side) for side in SIDES)
    return source, target


def bring(name: str, out: Path) -> None:
    """Write the tokenizers of a pretrained model as those of both sides.

    Raises:
        UserError: there is none, or it ends no text.
    """
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.pretrained: {name} has no tokenizer that can be read\n{' '.join(str(error).split())[:200]}"
        ) from None
    if found.eos_token_id is None or found.pad_token_id is None:
        raise UserError(f"model.pretrained: the tokenizer of {name} lacks eos or pad\nexpected: both")
    for side in SIDES:
        found.save_pretrained(out / side)
