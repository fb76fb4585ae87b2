"""Documents and conversations of every source: in a fixed order, one at a time, no bad row dropped unseen."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.data import rows, stdlib, stdlib_calls, tables
from pipeline.data.asked import after_headers, asked
from pipeline.data.config import Chat, ChatSource, Corpus, CorpusSource, Filters, Preferences, Prompts, Tables
from pipeline.data.conversation import Conversation, Document, Preference, Prompt
from pipeline.data.filters import Filtered, check, kept
from pipeline.data.formats import Formats
from pipeline.data.judged import Judged, against_neighbours, against_others
from pipeline.data.overlap import check_near_duplicates
from pipeline.data.rows import BadRow, Row, Source, brief, name_of, require_unicode
from pipeline.run import outside
from pipeline.run.errors import UserError, nearest
from pipeline.run.files import digest_of

FIRST_ROWS = 8  # looked at before anything runs

Several = Corpus | Chat  # sections that may hold several sources
Section = Several | Preferences | Prompts
SkippedRow = dict[str, Any]  # {"key", "file", "line", "reason"} of a row left out under on_bad_row: skip


Reader = Callable[[Source], Iterator[Row]]
Parser = Callable[[Source, Row], Iterable[Any]]


def documents(
    corpus: Corpus, skipped: list[SkippedRow], filtered: Filtered | None = None
) -> Iterator[Document]:
    """The documents of a corpus, ordered by file and by line or row within it; read as they are asked for.

    Of several sources one comes after the other, and `N/` stands before the keys of source N, counted from 0.

    Args:
        skipped: rows left out under on_bad_row: skip are appended to it. filtered: what filters took is added to it.

    Raises:
        UserError: nothing at the path, no document in it, or, under on_bad_row: error, a bad row. An empty or
            undecodable file is a bad row, too; an empty module of the standard library is none.
    """
    yield from _items_of_parts(corpus, skipped, filtered)


def conversations(chat: Chat, skipped: list[SkippedRow]) -> Iterator[Conversation]:
    """The conversations of a chat section, ordered as documents are; WordNet's by word. Raises as documents."""
    yield from _items_of_parts(chat, skipped)


def _items_of_parts(
    section: Several, skipped: list[SkippedRow], filtered: Filtered | None = None
) -> Iterator[Any]:
    for number, part in enumerate(section.parts):
        rows = _items(part, part.most, skipped)
        if section.sources:
            rows = (dataclasses.replace(row, key=f"{number}/{row.key}") for row in rows)
        yield from _let_through(rows, part, filtered)


def _let_through(rows: Iterator[Any], part: Source, filtered: Filtered | None) -> Iterator[Any]:
    """The rows that the source's filters leave, masked; where it has none, the rows as they are."""
    if not isinstance(part, CorpusSource) or part.filters == Filters():
        yield from rows
        return
    taken = Filtered() if filtered is None else filtered
    for row in rows:
        text = kept(part.filters, row.key, row.text, taken)
        if text is not None:
            yield dataclasses.replace(row, text=text)


def preferences(source: Preferences, skipped: list[SkippedRow]) -> Iterator[Preference]:
    """The judged answers of a preferences section, ordered as documents are; WordNet's as drawn. Raises alike."""
    return _items(source, source.most, skipped)


def answered(source: Preferences) -> Iterator[Preference]:
    """Answers of a table that may be judged or not, in its order. Raises as documents."""
    parse = _table_row(Judged(source, unjudged=True))
    for row in tables.table_rows(source):
        try:
            yield from parse(source, row)
        except BadRow as bad:
            _skip_or_raise(source, row, bad, [])


def prompts(source: Prompts, skipped: list[SkippedRow]) -> Iterator[Prompt]:
    """The prompts of a section, ordered as documents are. Raises as documents."""
    return _items(source, source.most, skipped)


def held_out_rows(source: Section) -> Iterator[Any]:
    """The rows that are held out, alone; those that cannot be used are left out, as the whole reading says of them."""
    for part in source.parts if isinstance(source, Several) else (source,):
        yield from _let_through(_held_out_rows(part), part, None)


def _held_out_rows(source: Source) -> Iterator[Any]:
    limit = source.most
    read, parse = _reader_and_parser(source)
    seen = 0
    for row in read(source):
        if limit is None and not is_held_out(row.key, source.held_out):
            continue
        try:
            items = list(parse(source, row))
        except BadRow:
            continue
        for item in items[: None if limit is None else max(0, limit - seen)]:
            if is_held_out(item.key, source.held_out):
                yield item
        seen += len(items)


def goes_to_held_out(source: Section, key: str) -> bool:
    """Whether the row under this key is held out, by the share of the source that it comes from."""
    if isinstance(source, Several):
        source, key = _part_of(source, key)
    return is_held_out(key, source.held_out)


def repeats_of(source: Section, key: str) -> int:
    """How often the training row under this key is there; a hash of its key decides about a fraction."""
    if not isinstance(source, Several):
        return 1
    part, key = _part_of(source, key)
    whole = int(part.repeats)
    digest = hashlib.sha256(f"repeat {key}".encode()).digest()
    return whole + (int.from_bytes(digest[:8], "big") / 2**64 < part.repeats - whole)


def name_of_source(source: Several, key: str) -> str:
    """Which of a section's sources the row under this key comes from, in a few words."""
    part, _ = _part_of(source, key)
    return part.name or (f"{key.partition('/')[0]} {part.called}" if source.sources else part.called)


def label_of_source(source: Several, key: str) -> str:
    """The same without the folders that lead to it."""
    part, _ = _part_of(source, key)
    return part.name or f"{key.partition('/')[0]} {Path(part.path).name if part.path else part.called}"


def on_bad_row_of(source: Section, key: str) -> str:
    """What becomes of the row under this key where it cannot be used, by the source that it comes from."""
    return (_part_of(source, key)[0] if isinstance(source, Several) else source).on_bad_row


def _part_of(section: Several, key: str) -> tuple[ChatSource | CorpusSource, str]:
    if not section.sources:
        return section, key
    number, _, own = key.partition("/")
    return section.sources[int(number)], own


def is_held_out(key: str, held_out: float) -> bool:
    """Whether a key falls in the held-out share: a hash of its part before `::` (a file, or a word) decides."""
    digest = hashlib.sha256(key.split("::", 1)[0].encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < held_out


def check_corpus(corpus: Corpus) -> None:
    """Refuse, without reading it all, a corpus that cannot be read: path, files, permissions, the first rows.

    Raises:
        UserError: as documents.
    """
    for part in corpus.parts:
        check(part.filters)
        _check(part)
    if corpus.near_duplicates is not None:
        check_near_duplicates()


def check_chat(chat: Chat) -> None:
    """As check_corpus, for conversations."""
    for part in chat.parts:
        _check(part)


def check_judged(source: Preferences | Prompts) -> None:
    """As check_corpus, for judged answers and prompts."""
    _check(source)


def is_judged(source: Preferences) -> bool:
    """Whether the first row that can be used holds answers and what is thought of them."""
    for row in islice(tables.table_rows(source), FIRST_ROWS):
        try:
            return bool(list(_table_row(Judged(source))(source, row)))
        except BadRow:
            continue
    return False


def format_of(chat: Chat) -> str:
    """What the rows of a chat section are, in words, by the first that can be used of each source.

    Raises:
        UserError: as check_chat.
    """
    return "; ".join(map(_format_of, chat.parts))


def _format_of(chat: ChatSource) -> str:
    if chat.source in BY_FILE:
        return f"made of {chat.source}"
    formats = Formats(chat)
    parse = _table_row(formats)
    for row in islice(tables.table_rows(chat), FIRST_ROWS):
        try:
            [found] = parse(chat, row)
        except BadRow:
            continue
        named = {"sharegpt": "messages"}.get(str(formats.format), str(formats.format))
        parts = [f"{len(found.messages)} messages in the first" if found.messages else "texts"]
        parts += [f"{len(found.tools)} tools"] if found.tools else []
        return f"{named.replace('_', ' and ')} ({', '.join(parts)})"
    return f"not known: none of the first {FIRST_ROWS} rows can be used"


def outside_files(source: Section) -> dict[str, Path]:
    """The files that `source` reads, by name; none for a dataset of the Hub, whose copies here are named by revision.

    Raises:
        UserError: as files_of.
    """
    if not isinstance(source, Several) or not source.sources:
        return _files(source)
    return {
        f"{number}/{name}": file
        for number, part in enumerate(source.sources)
        for name, file in _files(part).items()
    }


def _files(source: Source) -> dict[str, Path]:
    if source.source == "wordnet":
        return outside.files_below(rows.path_of(source))
    if tables.is_dataset(source):
        folder = Path(str(source.path)).expanduser()
        return outside.files_below(folder) if folder.exists() else {}
    return dict(rows.files_of(source))


def fingerprint(source: Section) -> dict[str, Any]:
    """Identity of the bytes read: `files` (`rows` of a `datasets` source), their `bytes`, and a `sha256`.

    The sha256 is over (key, sha256 of content) of each file, sorted, or of each row, in order.
    """
    if isinstance(source, Several) and source.sources:
        return {"sources": [_fingerprint(part) for part in source.sources]}
    return _fingerprint(source)


def _fingerprint(source: Source) -> dict[str, int | str]:
    if tables.is_dataset(source):
        found = [
            _digest(row.key, json.dumps(row.value, default=str).encode()) for row in tables.table_rows(source)
        ]
    elif source.source == "wordnet":
        found = [_digest(key, content) for key, content in stdlib.wordnet_files(rows.path_of(source))]
    else:
        found = [(key, path.stat().st_size, digest_of(path)) for key, path in rows.files_of(source)]
    lines = "".join(f"{key}\0{digest}\n" for key, _, digest in found)
    return {
        "rows" if tables.is_dataset(source) else "files": len(found),
        "bytes": sum(size for _, size, _ in found),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }


def _digest(key: str, content: bytes) -> tuple[str, int, str]:
    return key, len(content), hashlib.sha256(content).hexdigest()


def _items(source: Source, limit: int | None, skipped: list[SkippedRow]) -> Iterator[Any]:
    read, parse = _reader_and_parser(source)
    found = 0
    for row in read(source):
        try:
            items = parse(source, row)
        except BadRow as bad:
            _skip_or_raise(source, row, bad, skipped)
            continue
        for item in items:
            yield item
            found += 1
            if found == limit:
                return
    if not found:
        why = f"{len(skipped)} rows skipped, the first: {skipped[0]['reason']}" if skipped else "no rows"
        raise UserError(f"{name_of(source)}: nothing to read in {source.path or source.source} ({why})")


def _check(source: Source) -> None:
    if tables.is_dataset(source):
        tables.check_dataset(source)
    elif source.source == "wordnet":
        stdlib.wordnet_files(rows.path_of(source))
    else:
        read, parse = _reader_and_parser(source)
        for row in islice(read(source), FIRST_ROWS):
            try:
                parse(source, row)
            except BadRow as bad:
                _skip_or_raise(source, row, bad, [])


def _skip_or_raise(source: Source, row: Row, bad: BadRow, skipped: list[SkippedRow]) -> None:
    line = row.line if bad.line is None else bad.line
    if source.on_bad_row == "skip":
        skipped.append({"key": row.key, "file": row.file, "line": line, "reason": str(bad).split("\n")[0]})
        return
    by_line = isinstance(row.value, bytes) or rows.kind_of(Path(row.file)) == "csv"
    place = "" if line is None else f":{line}" if by_line else f" row {line}"
    raise UserError(
        f"{row.file}{place}: {bad}\n"
        f"way out: mend it, or {name_of(source)}.on_bad_row=skip to leave such rows out and count them"
    )


# Parsers: one row -> its documents or conversations. Raises BadRow.


def _decoded(row: Row) -> str:
    try:
        return row.value.decode("utf-8")
    except UnicodeDecodeError as error:
        line = (row.line or 1) + row.value.count(b"\n", 0, error.start)
        raise BadRow(
            f"byte {row.value[error.start]:#04x} at offset {error.start} is not UTF-8\n"
            "expected: UTF-8 text, or UTF-16 with a byte-order mark",
            line,
        ) from None


def _text_file(corpus: Corpus, row: Row) -> list[Document]:
    text = _decoded(row)
    if not text.strip():
        raise BadRow("the file is empty\nexpected: text")
    return [Document(row.key, text)]


def _module(corpus: Corpus, row: Row) -> list[Document]:
    text = _decoded(row)
    return [Document(row.key, text)] if text.strip() else []


def _text_column(corpus: Corpus, row: Row) -> list[Document]:
    text = row.value[corpus.text_column]
    if not isinstance(text, str) or not text.strip():
        raise BadRow(f"column {corpus.text_column!r} holds {brief(text)}\nexpected: text that is not empty")
    require_unicode(text)
    return [Document(row.key, text)]


def _docstrings(chat: Chat, row: Row) -> list[Conversation]:
    try:
        pairs = stdlib.docstring_pairs(_decoded(row))
    except SyntaxError as error:
        raise BadRow(f"not Python: {error.msg}\nexpected: a module that parses", error.lineno) from None
    return [_asked_and_answered(f"{row.key}::{pair.name}", pair) for pair in pairs]


def _calls(chat: Chat, row: Row) -> list[Conversation]:
    try:
        calls = stdlib_calls.calls_of(_decoded(row), row.key)
    except SyntaxError as error:
        raise BadRow(f"not Python: {error.msg}\nexpected: a module that parses", error.lineno) from None
    return [_asked_and_called(f"{row.key}::{call.name}", call) for call in calls]


def _definition(chat: Chat, row: Row) -> list[Conversation]:
    return [_asked_and_answered(row.key, row.value)]


def _asked_and_answered(key: str, pair: stdlib.Pair) -> Conversation:
    user, assistant = (
        {"role": "user", "content": pair.question},
        {"role": "assistant", "content": pair.answer},
    )
    return Conversation(key, (user, assistant))


def _asked_and_called(key: str, call: stdlib_calls.Call) -> Conversation:
    function = {"name": call.function, "arguments": call.arguments}
    answer = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    return Conversation(key, ({"role": "user", "content": call.request}, answer), call.tools)


def _table_row(parse: Parser) -> Parser:
    """The parser of a table's row, or of a JSON line, of which `parse` takes the columns."""

    def parse_row(source: Source, row: Row) -> Iterable[Any]:
        return parse(source, dataclasses.replace(row, value=columns_of(source, row)))

    return parse_row


def columns_of(source: Tables, row: Row) -> dict[str, Any]:
    """{column: value} of a table's row, or of a JSON line.

    Raises:
        BadRow: it is no such thing, or lacks a column that the section names.
    """
    value, lines, one = row.value, isinstance(row.value, bytes), "one JSON object a line"
    if lines:
        text = _decoded(row)
        if not text.strip():
            raise BadRow(f"empty\nexpected: {one}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise BadRow(f"not JSON: {error.msg} at column {error.colno}\nexpected: {one}") from None
        except RecursionError:
            raise BadRow(f"JSON nested too deep\nexpected: {one}") from None
    if not isinstance(value, dict):
        raise BadRow(f"holds {brief(value)}\nexpected: {one if lines else 'a value for each column'}")
    for column in source.named_columns.values():
        if column not in value:
            raise BadRow(f"no column {column!r}\n{nearest(column, value)[:300]}")
    return value


def _pairs_of_docstrings(source: Preferences, row: Row) -> list[Preference]:
    try:
        return against_neighbours(row.key, stdlib.docstring_pairs(_decoded(row)))
    except SyntaxError as error:
        raise BadRow(f"not Python: {error.msg}\nexpected: a module that parses", error.lineno) from None


def _function_headers(source: Prompts, row: Row) -> list[Prompt]:
    return after_headers(row.key, _decoded(row))


def _wordnet_pairs(source: Preferences) -> Iterator[Row]:
    """One row a word and sense; words in an order drawn by a hash, so that the first ones are a fair sample."""
    path = rows.path_of(source)

    def split_of(key: str) -> bool:
        return is_held_out(key, source.held_out)

    def drawn(pair: tuple[str, Preference]) -> str:
        return hashlib.sha256(f"drawn {pair[0].split('::')[0]}".encode()).hexdigest()

    for key, pair in sorted(against_others(stdlib.senses(path), split_of), key=drawn):
        yield Row(key, str(path), None, pair)


def _ready(source: Preferences, row: Row) -> list[Preference]:
    return [row.value]


def _reader_and_parser(source: Source) -> tuple[Reader, Parser]:
    """How a section is read; the parser may remember what earlier rows were like."""
    if isinstance(source, Prompts):
        if source.source == "stdlib_functions":
            return rows.file_rows, _function_headers
        return tables.table_rows, _table_row(asked)
    if isinstance(source, Preferences):
        made = {
            "stdlib_docstrings": (rows.file_rows, _pairs_of_docstrings),
            "wordnet": (_wordnet_pairs, _ready),
        }
        return made.get(source.source) or (tables.table_rows, _table_row(Judged(source)))
    if source.source in BY_FILE:
        return BY_FILE[source.source]
    return tables.table_rows, _table_row(_text_column if isinstance(source, CorpusSource) else Formats(source))


BY_FILE: dict[str, tuple[Reader, Parser]] = {
    "stdlib": (rows.file_rows, _module),
    "packages": (rows.file_rows, _module),
    "text": (rows.file_rows, _text_file),
    "dictd": (rows.dictionary_rows, _text_file),
    "stdlib_docstrings": (rows.file_rows, _docstrings),
    "stdlib_calls": (rows.file_rows, _calls),
    "wordnet": (rows.wordnet_rows, _definition),
}
