"""Captions as tokens: a vocabulary of whole words for an encoder that learns, or a pretrained encoder's own."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline.run.errors import nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EOS, PAD, UNKNOWN = SPECIAL = ("<eos>", "<pad>", "<unk>")


def vocabulary_of(captions: Iterable[str], least: int) -> list[str]:
    """The words in at least `least` captions, sorted."""
    counts = Counter(word for caption in captions for word in set(words_of(caption)))
    return sorted(word for word, count in counts.items() if count >= least)


def words_of(caption: str) -> list[str]:
    """Small letters, marks apart, as the tokenizer cuts them."""
    return re.findall(r"\w+|[^\w\s]+", caption.lower())


def tokenizer_of(words: Iterable[str]) -> "PreTrainedTokenizerBase":
    """A word is a token, in small letters, a mark is one of its own; a caption ends in <eos>, and "" is that alone."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, vocabulary[EOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def unknown_words(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[str]:
    """The words of a prompt that the tokenizer has no token of."""
    if tokenizer.unk_token_id is None:
        return []
    found = []
    for word in prompt.split():
        if tokenizer.unk_token_id in tokenizer(word, add_special_tokens=False)["input_ids"]:
            found.append(word)
    return found


def why_unknown(tokenizer: "PreTrainedTokenizerBase", word: str) -> str:
    """What to say of a word that the encoder has never seen."""
    known = [one for one in tokenizer.get_vocab() if one not in tokenizer.all_special_tokens]
    return f"no caption that was learnt has the word {word!r}\n{nearest(word.lower(), known)[:300]}"
