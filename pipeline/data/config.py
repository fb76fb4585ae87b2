"""The sections that name the data of a language model: documents, conversations, preferences, prompts."""

import re
from typing import ClassVar, Literal, Protocol

from pydantic import field_validator, model_validator

from pipeline.run.config import Section, what

Unwritten = Literal["error", "drop", "text"]
OVERLAP = "training rows that are held out as well, but for white space: leave out and count, or count"


class Tables(Protocol):
    """A section whose data may lie in tables.

    section: its name in the recipe; only_named: whether no other columns than the named ones are read.
    """

    section: ClassVar[str]
    only_named: ClassVar[bool]

    @property
    def source(self) -> str: ...

    @property
    def path(self) -> str | None: ...

    @property
    def split(self) -> str: ...

    @property
    def named_columns(self) -> dict[str, str]:
        """Columns that must be there, by the settings that name them."""


NAMED = "what a source among several is called in mixtures, scores and reports; none: its number and path"
Kind = Literal["stdlib", "packages", "text", "dictd", "auto", "jsonl", "json", "csv", "parquet", "datasets"]
KIND = (
    "kind of source; packages: Python files of installed ones; auto: tables by their files' endings, also .gz, "
    ".bz2, .xz and .zst, or a dataset"
)


class Filters(Section):
    """Which documents of a source are left out for what they are, held-out ones too, and what is masked in the rest."""

    min_characters: int | None = what(None, "shorter documents are left out", ge=1)
    max_characters: int | None = what(None, "longer documents are left out", ge=1)
    keep: str | None = what(None, "a regular expression: documents without a match are left out")
    drop: tuple[str, ...] = what((), "regular expressions: documents with a match are left out")
    max_symbols: float | None = what(
        None, "largest share of characters, without space, that are neither letters nor digits", ge=0, lt=1
    )
    max_repeated_lines: float | None = what(
        None, "largest share of characters in lines that came before in the document", ge=0, lt=1
    )
    max_repeated_phrases: float | None = what(
        None, "largest share of words in phrases of five that came before in the document", ge=0, lt=1
    )
    languages: tuple[str, ...] = what(
        (), "codes such as en: documents in others are left out, as py3langid tells them by their beginning"
    )
    mask: tuple[Literal["email", "ip", "phone"], ...] = what(
        (), "private details that are replaced by their kind, such as <email>"
    )

    @field_validator("keep", "drop")
    @classmethod
    def _compiles(cls, given: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        for pattern in (given,) if isinstance(given, str) else given or ():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return given


class CorpusSource(Section):
    """Where documents come from, and which of them are held out."""

    section: ClassVar[str] = "corpus"
    only_named: ClassVar[bool] = True
    name: str | None = what(None, NAMED)
    source: Kind = what(..., KIND)
    packages: tuple[str, ...] = what(
        (), "packages only: names as they are imported, such as numpy or sympy.ntheory"
    )
    licences: tuple[str, ...] = what(
        ("MIT", "BSD", "0BSD", "Apache-2.0", "BSL-1.0", "CC0-1.0", "ISC", "PSF-2.0", "Zlib"),
        "packages only: how the licence of a file that is read begins, by its own notice or the package's",
    )
    path: str | None = what(
        None,
        "file, folder, glob or URL; `datasets`: a Hub name or directory; dictd: of NAME.index; stdlib: none",
    )
    split: str = what("train", "datasets only: the split to read")
    text_column: str = what("text", "of tables: the column that holds a document's text")
    pattern: str = what("**/*.txt", "text only: which files below a folder are documents")
    held_out: float = what(
        0.1, "share of documents held out, decided by a hash of each document's key", gt=0, lt=1
    )
    repeats: float = what(
        1.0, "how often each training document is there: 2.5 is twice, and half of them once more", gt=0
    )
    max_documents: int | None = what(None, "stop after this many documents, before filters; none: all", ge=1)
    filters: Filters = what(Filters(), "which documents are left out for what they are, and what is masked")
    on_bad_row: Literal["error", "skip"] = what(
        "error", "undecodable file or malformed row: stop, or count and skip"
    )

    @model_validator(mode="after")
    def _of_packages(self) -> "CorpusSource":
        if (self.source == "packages") != bool(self.packages):
            raise ValueError("source: packages goes with packages: [NAME, ...], and with nothing else")
        return self

    @property
    def named_columns(self) -> dict[str, str]:
        return {"text_column": self.text_column}

    @property
    def most(self) -> int | None:
        """How many documents are read; None: all."""
        return self.max_documents

    @property
    def called(self) -> str:
        """What it is, in a word: its path or packages, else the kind of source."""
        return self.path or ", ".join(self.packages) or str(self.source)


def _refuse_both(section: Section, source: type[Section]) -> None:
    """Raises ValueError where a section with several sources has settings of a single one, too, or a name twice."""
    both = section.model_fields_set & source.model_fields.keys() if section.sources else set()
    if both:
        raise ValueError(f"with sources, each has settings of its own: leave out {', '.join(sorted(both))}")
    if section.name and not section.sources:
        raise ValueError("name tells several sources apart: leave it out where there is one")
    names = [part.name for part in section.sources if part.name]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two sources are called {twice!r}: give one of them another name")


class Corpus(CorpusSource):
    """Documents for pretraining, of one source or of several."""

    source: Kind | None = what(None, KIND)
    sources: tuple[CorpusSource, ...] = what(
        (), "several sources, each with its own settings and repeats, in place of those above"
    )
    held_out_overlap: Literal["drop", "keep"] = what("drop", OVERLAP)
    held_out_near: float | None = what(
        None,
        "training documents are dropped of which more than this share of the longer lines stands in held-out ones; "
        "none: only the same documents are",
        gt=0,
        lt=1,
    )
    duplicates: Literal["keep", "drop"] = what(
        "keep", "training documents that came before, but for white space, in this source or another: leave them out"
    )
    near_duplicates: float | None = what(
        None,
        "training documents are left out whose phrases of five words agree with an earlier one's in more than this "
        "share (Jaccard, estimated by MinHash); none: only the same ones are, where duplicates says so",
        gt=0,
        lt=1,
    )
    fim: float = what(
        0.0,
        "share of training documents that are learnt as prefix, suffix, middle, so that gaps can be filled in",
        ge=0,
        le=1,
    )
    fim_tokens: tuple[str, str, str] = what(
        ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), "control tokens that open the three parts"
    )

    @model_validator(mode="after")
    def _one_place(self) -> "Corpus":
        _refuse_both(self, CorpusSource)
        if not self.sources and self.source is None:
            raise ValueError("a source is needed, such as source: text, or several: sources")
        return self

    @property
    def parts(self) -> tuple[CorpusSource, ...]:
        """The sources, of which there is at least one."""
        return self.sources or (self,)

    @property
    def said(self) -> str:
        """What the sources are, in a few words."""
        return " and ".join(part.called if self.sources else str(part.source) for part in self.parts)


class ChatSource(Section):
    """Where conversations come from, and which of them are held out."""

    section: ClassVar[str] = "chat"
    only_named: ClassVar[bool] = False
    name: str | None = what(None, NAMED)
    source: Literal[
        "auto", "jsonl", "json", "csv", "parquet", "datasets", "stdlib_docstrings", "stdlib_calls", "wordnet"
    ] = what(
        "auto", "kind of source; auto: by the files' endings, also .gz, .bz2, .xz and .zst, or a dataset"
    )
    path: str | None = what(None, "as in corpus; wordnet: the folder or .deb of wordnet-base; stdlib_*: none")
    split: str = what("train", "datasets only: the split to read")
    format: Literal["auto", "messages", "sharegpt", "prompt_completion", "alpaca", "text"] = what(
        "auto", "shape of the rows; auto: by their columns, the first row deciding for all"
    )
    messages_column: str | None = what(
        None, "column of a list of messages; none: messages or conversations, or no such list"
    )
    held_out: float = what(
        0.1, "share of keys held out; for stdlib_* the same files as the corpus", gt=0, lt=1
    )
    repeats: float = what(
        1.0, "how often each training row is there: 2.5 is twice, and half of them once more", gt=0
    )
    max_conversations: int | None = what(None, "stop after this many conversations; none: all", ge=1)
    on_bad_row: Literal["error", "skip"] = what("error", "malformed row: stop, or count and skip")

    @property
    def named_columns(self) -> dict[str, str]:
        return {"messages_column": self.messages_column} if self.messages_column else {}

    @property
    def most(self) -> int | None:
        """How many conversations are read; None: all."""
        return self.max_conversations

    @property
    def called(self) -> str:
        """Its path where that says what it is, else the kind of source."""
        return self.path if self.source == "auto" and self.path else self.source


class Chat(ChatSource):
    """Conversations for fine-tuning; loss falls on the assistant's tokens, unless `loss` says otherwise."""

    sources: tuple[ChatSource, ...] = what(
        (), "several sources, each with its own settings, in place of those above"
    )
    loss: Literal["assistant", "last_assistant", "completion", "all"] = what(
        "assistant", "what is taught: every answer, the last, those after the last user turn, or every token"
    )
    unwritten: Unwritten = what(
        "error",
        "tools and thinking that the chat template has no place for: stop, or leave out and count; text: tools and "
        "calls are written as text, and thinking stops",
    )
    held_out_overlap: Literal["drop", "keep"] = what("drop", OVERLAP)

    @model_validator(mode="after")
    def _one_place(self) -> "Chat":
        _refuse_both(self, ChatSource)
        return self

    @property
    def parts(self) -> tuple[ChatSource, ...]:
        """The sources, of which there is at least one."""
        return self.sources or (self,)

    @property
    def said(self) -> str:
        """What the sources are, in a few words."""
        return " and ".join(part.called for part in self.parts)


class Judged(Section):
    """What a source of judged answers and one of prompts share."""

    only_named: ClassVar[bool] = False
    path: str | None = what(None, "as in chat")
    split: str = what("train", "datasets only: the split to read")
    held_out: float = what(0.1, "share of keys held out", gt=0, lt=1)
    held_out_overlap: Literal["drop", "keep"] = what("drop", OVERLAP)
    on_bad_row: Literal["error", "skip"] = what("error", "malformed row: stop, or count and skip")

    @property
    def called(self) -> str:
        """Its path where that says what it is, else the kind of source."""
        return self.path if self.source == "auto" and self.path else self.source


class Preferences(Judged):
    """Where judged answers come from: pairs of a better and a worse one, or single ones with a verdict."""

    section: ClassVar[str] = "preferences"
    source: Literal["auto", "jsonl", "json", "csv", "parquet", "datasets", "stdlib_docstrings", "wordnet"] = (
        what(
            "auto",
            "kind of source, as in chat; wordnet: a word's definition against another sense's or another word's; "
            "stdlib_docstrings: a function's docstring against its neighbour's",
        )
    )
    format: Literal["auto", "pairs", "verdicts"] = what(
        "auto", "pairs: chosen and rejected; verdicts: completion and label; auto: by the columns"
    )
    unwritten: Unwritten = what("error", "as in chat: tools and thinking that the template has no place for")
    max_preferences: int | None = what(None, "stop after this many rows; none: all", ge=1)

    @property
    def named_columns(self) -> dict[str, str]:
        return {}

    @property
    def most(self) -> int | None:
        """How many rows are read; None: all."""
        return self.max_preferences


class Prompts(Judged):
    """Where prompts come from whose answers a reward function judges."""

    section: ClassVar[str] = "prompts"
    source: Literal["auto", "jsonl", "json", "csv", "parquet", "datasets", "stdlib_functions"] = what(
        "auto", "kind of source, as in chat; stdlib_functions: the headers of Python's own functions"
    )
    prompt_column: str = what(
        "prompt", "of tables: a text or a list of messages; the reward is given the others"
    )
    plain: bool = what(
        False, "the prompt's text begins a document, which is gone on with; false: a user's turn"
    )
    max_prompts: int | None = what(None, "stop after this many; none: all", ge=1)

    @property
    def named_columns(self) -> dict[str, str]:
        return {"prompt_column": self.prompt_column}

    @property
    def most(self) -> int | None:
        """How many rows are read; None: all."""
        return self.max_prompts
