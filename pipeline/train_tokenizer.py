"""Stage `tokenizer`: train it on the corpus' training documents, or bring one; measure it on those held out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from pipeline.data import sources
from pipeline.data.answers import ChatTemplate
from pipeline.data.chat import separators
from pipeline.data.config import Corpus
from pipeline.lm.config import LanguageModelConfig, Tokenizer
from pipeline.run.errors import UserError
from pipeline.run.stage import Context
from pipeline.run.terminal import bar
from tokenizer.evaluate import evaluate
from tokenizer.files import load, save
from tokenizer.train import LONGEST_RUN, Shortened, VocabularyError, train

EVALUATED_BYTES = 2_000_000  # of held-out documents, the first in the corpus' order


def check(config: LanguageModelConfig) -> None:
    """Refuse a recipe without the sections corpus and tokenizer, or a corpus that cannot be read.

    Raises:
        UserError: one of these; as sources.check_corpus; a tokenizer that is brought and cannot be used.
    """
    if config.corpus is None or config.tokenizer is None:
        raise UserError("stage tokenizer needs the sections corpus and tokenizer")
    sources.check_corpus(config.corpus)
    if config.tokenizer.pretrained:
        from pipeline.lm.brought import load_brought

        found, _ = load_brought(config.tokenizer)
        separators(found)
        if config.chat:
            ChatTemplate(found)


def run(context: Context) -> dict[str, Any]:
    """Write the tokenizer's directory, without a length: that is the model's to say.

    Returns:
        tokenizer.evaluate's figures on the first 2 MB of held-out documents; counts `documents.train`,
        `documents.held_out`, `skipped_rows` and `long_runs_cut`; the fingerprint of the `corpus`.

    Raises:
        UserError: the corpus is refused, leaves a split empty, or does not support the vocabulary.
    """
    corpus, wanted = context.config.corpus, context.config.tokenizer
    reading = Reading(corpus)
    shortened = Shortened(bar(reading.training_texts(), "reading documents", context.terminal))
    if wanted.pretrained:
        tokenizer = _bring(wanted, context.out)
        for _ in shortened:
            pass  # counted, and refused where a split is empty, as those that train one are
    else:
        try:
            marks = corpus.fim_tokens if corpus.fim else ()
            tokenizer = train(shortened, wanted.vocabulary_size - len(marks), wanted.algorithm)
            tokenizer.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in marks])
        except VocabularyError as error:
            raise UserError(f"tokenizer.vocabulary_size: {error}") from None
        save(tokenizer, context.out, model_max_length=None)
    if shortened.cut and not wanted.pretrained:
        context.terminal.write(
            f"  {shortened.cut:,} x cut {LONGEST_RUN:,} characters without a space: longer runs stall the training\n"
        )
    figures = evaluate(tokenizer, reading.held_out_texts)
    return (
        figures
        | reading.counts()
        | {"long_runs_cut": shortened.cut}
        | {"corpus": sources.fingerprint(corpus)}
    )


def _bring(wanted: Tokenizer, out: Path) -> Backend:
    """Write a tokenizer that is brought, its files as they are; the one that encodes."""
    from pipeline.lm.brought import load_brought
    from pipeline.lm.model import copy_tokenizer

    tokenizer, origin = load_brought(wanted)
    copy_tokenizer(tokenizer, out, origin)
    return load(out)


class Reading:
    """One pass over a corpus: its training texts stream by, the first held-out ones and the counts are kept."""

    def __init__(self, corpus: Corpus):
        self.corpus = corpus
        self.held_out_texts: list[str] = []
        self.skipped: list[sources.SkippedRow] = []
        self._documents = {"train": 0, "held_out": 0}
        self._kept_bytes = 0

    def training_texts(self) -> Iterator[str]:
        """The text of each training document.

        Raises:
            UserError: as sources.documents; or, at the end, one of the splits holds no document.
        """
        for document in sources.documents(self.corpus, self.skipped):
            if sources.goes_to_held_out(self.corpus, document.key):
                self._documents["held_out"] += 1
                self._keep(document.text)
            else:
                self._documents["train"] += 1
                yield document.text
        if not all(self._documents.values()):
            counts = ", ".join(f"{name} {count}" for name, count in self._documents.items())
            raise UserError(
                f"corpus.held_out = {', '.join(str(part.held_out) for part in self.corpus.parts)} leaves a split "
                f"without documents: {counts}\n"
                "way out: more documents, or another corpus.held_out"
            )

    def _keep(self, text: str) -> None:
        if self._kept_bytes < EVALUATED_BYTES:
            self.held_out_texts.append(text)
            self._kept_bytes += len(text.encode())

    def counts(self) -> dict[str, int]:
        read = {f"documents.{name}": count for name, count in self._documents.items()}
        return read | {"skipped_rows": len(self.skipped)}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("tokenizer")
