"""The kinds of rows that become tokens, documents, conversations and judged answers, behind one interface."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

from pipeline.data import packages, sources
from pipeline.data.chat import ChatEncoder, Encoded, Layout, separators
from pipeline.data.config import Chat, Corpus, Preferences, Prompts
from pipeline.data.conversation import Conversation, Document, Preference, Prompt
from pipeline.data.filters import Filtered
from pipeline.data.infilling import Marks, marks_of, parts_of
from pipeline.data.sources import SkippedRow
from pipeline.run.errors import UserError
from tokenizer.encode import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Row = TypeVar("Row")
Skipped = list[SkippedRow]


class Kind(Protocol[Row]):
    """What documents, conversations and judged answers do differently.

    name: of their shards; section: the recipe's name of `source`; batch_characters: encoded at a time; recorded: the
    splits whose rows are kept as JSON lines beside their tokens.
    """

    name: str
    section: str
    source: Corpus | Chat | Preferences | Prompts
    batch_characters: int
    recorded: tuple[str, ...]

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
    corpus: Corpus | None,
    chat: Chat | None,
    preferences: Preferences | None,
    prompts: Prompts | None,
    tokenizer: "PreTrainedTokenizerFast",
    skipped: Skipped,
) -> Iterator[Kind]:
    """The kinds of rows that the recipe has; rows left out are appended to `skipped`."""
    if corpus:
        yield Documents(corpus, tokenizer, skipped)
    if chat:
        yield Conversations(chat, tokenizer, skipped)
    if preferences:
        yield Judgements(preferences, tokenizer, skipped)
    if prompts:
        yield Asked(prompts, tokenizer, skipped)


class Documents:
    """Each document as separator, tokens, separator.

    Raises:
        UserError: the tokenizer has neither a bos nor an eos token.
    """

    name, section = "documents", "corpus"
    recorded = ("held_out",)
    batch_characters = 32_000_000  # long batches suit the fast encoder

    def __init__(self, corpus: Corpus, tokenizer: "PreTrainedTokenizerFast", skipped: Skipped) -> None:
        self.source, self.tokenizer, self.skipped = corpus, tokenizer, skipped
        self.bos, self.eos = separators(tokenizer)
        self.marks = marks_of(corpus, tokenizer) if corpus.fim else None
        self.filtered = Filtered()

    def rows(self) -> Iterator[Document]:
        return iter(sources.documents(self.source, self.skipped, self.filtered))

    def size(self, row: Document) -> int:
        return len(row.text)

    def encode(self, rows: list[Document]) -> Iterator[tuple[list[Document], Encoded]]:
        return encode_or_refuse(rows, self._encode, self._refuse)

    def record(self, row: Document) -> dict[str, Any]:
        return {"key": row.key, "text": row.text}

    def notes(self) -> dict[str, int]:
        return packages.left_out(self.source) | self.filtered.notes

    def _encode(self, rows: list[Document]) -> Encoded:
        if self.marks:
            ids, lengths = self._with_gaps(rows, self.marks)
        else:
            ids, lengths = encode(self.tokenizer.backend_tokenizer, [row.text for row in rows])
        byte_lengths = np.array([len(row.text.encode()) for row in rows])
        return Encoded(*enclose(ids, lengths, self.bos, self.eos), byte_lengths, targets=None)

    def _with_gaps(self, rows: list[Document], marks: Marks) -> tuple[np.ndarray, np.ndarray]:
        """(ids, lengths) of documents, of which training ones may be there as prefix, suffix, middle."""
        held = [sources.goes_to_held_out(self.source, row.key) for row in rows]
        cut = [
            None if out else parts_of(row.key, row.text, self.source.fim)
            for row, out in zip(rows, held, strict=True)
        ]
        texts = [
            text
            for row, parts in zip(rows, cut, strict=True)
            for text in ((parts[0], parts[2], parts[1]) if parts else (row.text,))
        ]
        ids, lengths = encode(self.tokenizer.backend_tokenizer, texts)
        pieces, found, sizes = iter(np.split(ids, np.cumsum(lengths)[:-1])), [], []
        for parts in cut:
            own = [np.append([mark], next(pieces)) for mark in marks] if parts else [next(pieces)]
            found += own
            sizes.append(sum(map(len, own)))
        return np.concatenate(found).astype(ids.dtype), np.array(sizes)

    def _refuse(self, row: Document, reason: str) -> None:
        skip_or_raise(self.source.on_bad_row, self.section, row.key, reason, self.skipped)


class Conversations:
    """Each conversation by the tokenizer's chat template, the assistant's tokens as targets.

    Raises:
        UserError: the tokenizer has no chat template.
    """

    name, section = "conversations", "chat"
    recorded = ("held_out",)
    batch_characters = 1_000_000  # seconds: processes share them out

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

    def said(self) -> tuple[dict[str, int], tuple[int, int]]:
        """What was said of rows since the last time, and forget it."""
        found = dict(self.encoder.template.notes), (self._several, self._rows)
        self.encoder.template.notes.clear()
        self._several = self._rows = 0
        return found

    def hear(self, notes: dict[str, int], several: tuple[int, int]) -> None:
        """Count what was said of rows elsewhere."""
        mine = self.encoder.template.notes
        for words, count in notes.items():
            mine[words] = mine.get(words, 0) + count
        self._several, self._rows = self._several + several[0], self._rows + several[1]

    def _encode(self, laid_out: list[tuple]) -> Encoded:
        return self.encoder.encode([layout for _, layout in laid_out])

    def _refuse(self, pair: tuple, reason: str) -> None:
        key = pair[0].key
        skip_or_raise(sources.on_bad_row_of(self.source, key), self.section, key, reason, self.skipped)


WANTED, UNWANTED, FOREIGN = 1, 0, 2  # labels: an answer, or one that was given to another prompt


class Answer(NamedTuple):
    """One of a unit's two texts: an answer to a prompt, with its label."""

    row: Preference
    number: int
    label: int


class Judgements:
    """Units of two answers each, one after the other, the answer's tokens as targets.

    A pair is its chosen and its rejected answer. A single answer with a verdict is followed by its prompt with the
    answer of the row before, labelled FOREIGN: how far a model has moved on these tells how far it has moved at all
    (KTO, arXiv:2402.01306, section 4.1).

    Raises:
        UserError: the tokenizer has no chat template.
    """

    name, section = "preferences", "preferences"
    recorded = ("held_out",)
    batch_characters = 4_000_000

    def __init__(self, source: Preferences, tokenizer: "PreTrainedTokenizerFast", skipped: Skipped) -> None:
        self.source, self.skipped = source, skipped
        self.encoder = ChatEncoder(tokenizer, "assistant", source.unwritten)
        self._before: Preference | None = None

    def rows(self) -> Iterator[Preference]:
        return iter(sources.preferences(self.source, self.skipped))

    def size(self, row: Preference) -> int:
        return sum(len(message["content"]) for side in (row.prompt, *row.answers) for message in side)

    def encode(self, rows: list[Preference]) -> Iterator[tuple[list[Answer], Encoded]]:
        units = []
        before = self._before or (rows[-1] if rows else None)
        for row in rows:
            unit = _unit(row, before)
            try:
                units.append([(answer, self.laid_out(answer)) for answer in unit])
            except UserError as error:
                self._refuse([(unit[0], None)], str(error))
            before = self._before = row
        for kept, encoded in encode_or_refuse(units, self._encode, self._refuse):
            yield [answer for unit in kept for answer, _ in unit], encoded

    def record(self, row: Answer) -> dict[str, Any]:
        answered = row.row
        kept = {"tools": answered.tools, "plain": answered.plain}
        return {
            "key": answered.key,
            "messages": answered.conversation(row.number),
            "answer": len(answered.prompt),
            "label": row.label,
        } | {name: value for name, value in kept.items() if value}

    def notes(self) -> dict[str, int]:
        return self.encoder.template.notes

    def laid_out(self, answer: Answer) -> Layout:
        """How the prompt with this answer is written.

        Raises:
            UserError: the template cannot write it as one text.
        """
        row, messages = answer.row, answer.row.conversation(answer.number)
        if row.plain:
            return self.encoder.document(messages[1]["content"], messages[0]["content"])
        layouts = self.encoder.lay_out(list(messages), row.tools)
        if len(layouts) > 1:
            raise UserError(
                "the template writes the earlier turns of this answer anew for each later one\n"
                "expected: an answer of one turn"
            )
        return layouts[0]

    def _encode(self, units: list[list[tuple[Answer, Layout]]]) -> Encoded:
        encoded = self.encoder.encode([layout for unit in units for _, layout in unit])
        labels = np.array([answer.label for unit in units for answer, _ in unit], np.uint8)
        margins = np.array([answer.row.margin for unit in units for answer, _ in unit], np.float32)
        return encoded._replace(roles=None, labels=labels, margins=margins)

    def _refuse(self, unit: list, reason: str) -> None:
        skip_or_raise(self.source.on_bad_row, self.section, unit[0][0].row.key, reason, self.skipped)


class Asked:
    """Each prompt as generation is prompted with it.

    Raises:
        UserError: prompts are turns, and the tokenizer has no chat template.
    """

    name, section = "prompts", "prompts"
    recorded = ("train", "held_out")
    batch_characters = 4_000_000

    def __init__(self, source: Prompts, tokenizer: "PreTrainedTokenizerFast", skipped: Skipped) -> None:
        self.source, self.tokenizer, self.skipped = source, tokenizer, skipped

    def rows(self) -> Iterator[Prompt]:
        return iter(sources.prompts(self.source, self.skipped))

    def size(self, row: Prompt) -> int:
        return len(row.text) + sum(len(message["content"]) for message in row.messages)

    def encode(self, rows: list[Prompt]) -> Iterator[tuple[list[Prompt], Encoded]]:
        return encode_or_refuse(rows, self._encode, self._refuse)

    def record(self, row: Prompt) -> dict[str, Any]:
        return {"key": row.key, "messages": row.messages, "text": row.text, "columns": row.columns}

    def notes(self) -> dict[str, int]:
        return {}

    @cached_property
    def _encoder(self) -> ChatEncoder:
        return ChatEncoder(self.tokenizer)

    def _ids(self, row: Prompt) -> np.ndarray:
        if row.messages:
            return np.array(self._encoder.prompt_ids(list(row.messages)), np.uint32)
        ids, _ = encode(self.tokenizer.backend_tokenizer, [row.text])
        return np.concatenate([[separators(self.tokenizer)[0]], ids]).astype(np.uint32)

    def _encode(self, rows: list[Prompt]) -> Encoded:
        ids = [self._ids(row) for row in rows]
        lengths = np.array([len(each) for each in ids])
        sizes = np.array([self.size(row) for row in rows])
        return Encoded(np.concatenate(ids), lengths, sizes, targets=None)

    def _refuse(self, row: Prompt, reason: str) -> None:
        skip_or_raise(self.source.on_bad_row, self.section, row.key, reason, self.skipped)


def _unit(row: Preference, before: Preference | None) -> tuple[Answer, Answer]:
    if len(row.answers) == 2:
        return Answer(row, 0, WANTED), Answer(row, 1, UNWANTED)
    assert before is not None, "there is a row"
    foreign = dataclasses.replace(row, answers=before.answers)
    return Answer(row, 0, WANTED if row.verdicts[0] else UNWANTED), Answer(foreign, 0, FOREIGN)


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
