"""The two kinds of rows that become tokens, documents and conversations, behind one interface."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np

from pipeline.data import sources
from pipeline.data.chat import ChatEncoder, Encoded, separators
from pipeline.data.config import Chat, Corpus
from pipeline.data.conversation import Conversation, Document
from pipeline.data.sources import SkippedRow
from pipeline.run.errors import UserError
from tokenizer.encode import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Row = TypeVar("Row")
Skipped = list[SkippedRow]


class Kind(Protocol[Row]):
    """What documents and conversations do differently.

    name: of their shards; section: the recipe's name of `source`; batch_characters: encoded at a time.
    """

    name: str
    section: str
    source: Corpus | Chat
    batch_characters: int

    def rows(self) -> Iterator[Row]: ...

    def size(self, row: Row) -> int:
        """Characters."""

    def encode(self, rows: list[Row]) -> Iterator[tuple[list[Row], Encoded]]:
        """The rows that can be encoded, in order and in one or more parts, with their tokens."""

    def record(self, row: Row) -> dict[str, Any]:
        """The row as JSON data."""

    def notes(self) -> dict[str, int]:
        """What was done to rows otherwise than one might expect, in words, and how often."""


def kinds(
    corpus: Corpus | None, chat: Chat | None, tokenizer: "PreTrainedTokenizerFast", skipped: Skipped
) -> Iterator[Kind]:
    """The kinds of rows that the recipe has; rows left out are appended to `skipped`."""
    if corpus:
        yield Documents(corpus, tokenizer, skipped)
    if chat:
        yield Conversations(chat, tokenizer, skipped)


class Documents:
    """Each document as separator, tokens, separator.

    Raises:
        UserError: the tokenizer has neither a bos nor an eos token.
    """

    name, section = "documents", "corpus"
    batch_characters = 32_000_000  # long batches suit the fast encoder

    def __init__(self, corpus: Corpus, tokenizer: "PreTrainedTokenizerFast", skipped: Skipped) -> None:
        self.source, self.tokenizer, self.skipped = corpus, tokenizer, skipped
        self.bos, self.eos = separators(tokenizer)

    def rows(self) -> Iterator[Document]:
        return iter(sources.documents(self.source, self.skipped))

    def size(self, row: Document) -> int:
        return len(row.text)

    def encode(self, rows: list[Document]) -> Iterator[tuple[list[Document], Encoded]]:
        return encode_or_refuse(rows, self._encode, self._refuse)

    def record(self, row: Document) -> dict[str, Any]:
        return {"key": row.key, "text": row.text}

    def notes(self) -> dict[str, int]:
        return {}

    def _encode(self, rows: list[Document]) -> Encoded:
        ids, lengths = encode(self.tokenizer.backend_tokenizer, [row.text for row in rows])
        byte_lengths = np.array([len(row.text.encode()) for row in rows])
        return Encoded(*enclose(ids, lengths, self.bos, self.eos), byte_lengths, targets=None)

    def _refuse(self, row: Document, reason: str) -> None:
        skip_or_raise(self.source.on_bad_row, self.section, row.key, reason, self.skipped)


class Conversations:
    """Each conversation by the tokenizer's chat template, the assistant's tokens as targets.

    Raises:
        UserError: the tokenizer has no chat template.
    """

    name, section = "conversations", "chat"
    batch_characters = 4_000_000  # many small Python objects a character

    def __init__(self, chat: Chat, tokenizer: "PreTrainedTokenizerFast", skipped: Skipped) -> None:
        self.source, self.skipped = chat, skipped
        self.encoder = ChatEncoder(tokenizer, chat.loss, chat.unwritten)
        self._several = self._rows = 0  # conversations of more than one row, and their rows

    def rows(self) -> Iterator[Conversation]:
        return iter(sources.conversations(self.source, self.skipped))

    def size(self, row: Conversation) -> int:
        return len(row.text) + sum(len(message["content"]) for message in row.messages)

    def encode(self, rows: list[Conversation]) -> Iterator[tuple[list[Conversation], Encoded]]:
        laid_out = []
        for row in rows:
            try:
                layouts = (
                    [self.encoder.document(row.text)]
                    if row.text
                    else self.encoder.lay_out(list(row.messages), row.tools)
                )
            except UserError as error:
                self._refuse((row, None), str(error))
                continue
            laid_out += [(row, layout) for layout in layouts]
            if len(layouts) > 1:
                self._several, self._rows = self._several + 1, self._rows + len(layouts)
        for pairs, encoded in encode_or_refuse(laid_out, self._encode, self._refuse):
            yield [row for row, _ in pairs], encoded

    def record(self, row: Conversation) -> dict[str, Any]:
        kept = {"tools": row.tools, "text": row.text}
        return {"key": row.key, "messages": row.messages} | {
            name: value for name, value in kept.items() if value
        }

    def notes(self) -> dict[str, int]:
        words = (
            f"conversations made {self._rows} rows: later turns change how the template writes earlier ones"
        )
        return self.encoder.template.notes | ({words: self._several} if self._several else {})

    def _encode(self, laid_out: list[tuple]) -> Encoded:
        return self.encoder.encode([layout for _, layout in laid_out])

    def _refuse(self, pair: tuple, reason: str) -> None:
        key = pair[0].key
        skip_or_raise(sources.on_bad_row_of(self.source, key), self.section, key, reason, self.skipped)


def encode_or_refuse(
    rows: list[Row], encode_rows: Callable[[list[Row]], Encoded], refuse: Callable[[Row, str], None]
) -> Iterator[tuple[list[Row], Encoded]]:
    """Encode `rows` together. A row that cannot be encoded (ValueError) is found by halving, and refused."""
    if not rows:
        return
    try:
        encoded = encode_rows(rows)
    except ValueError as error:
        if len(rows) == 1:
            refuse(rows[0], str(error))
            return
        half = len(rows) // 2
        yield from encode_or_refuse(rows[:half], encode_rows, refuse)
        yield from encode_or_refuse(rows[half:], encode_rows, refuse)
    else:
        yield rows, encoded


def skip_or_raise(
    on_bad_row: Literal["error", "skip"], section: str, key: str, reason: str, skipped: Skipped
) -> None:
    """Append the row to `skipped`, or stop.

    Raises:
        UserError: on_bad_row is error.
    """
    if on_bad_row == "error":
        raise UserError(f"{key}: {reason}\nway out: mend this row, or {section}.on_bad_row=skip")
    skipped.append({"key": key, "file": None, "line": None, "reason": reason})


def enclose(ids: np.ndarray, lengths: np.ndarray, bos: int, eos: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, lengths) with `bos` before and `eos` after each document; ids [N] become [N + 2 D]."""
    lengths = lengths + 2
    ends = np.cumsum(lengths)
    out = np.empty(ends[-1], ids.dtype)
    inside = np.ones(len(out), bool)
    inside[ends - lengths] = inside[ends - 1] = False
    out[inside], out[ends - lengths], out[ends - 1] = ids, bos, eos
    return out, lengths
