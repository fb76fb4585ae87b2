"""Rows that occur in both splits: what is held out would have been learnt by heart."""

import hashlib
from collections.abc import Iterable

from pipeline.data import sources
from pipeline.data.conversation import Conversation, Document
from pipeline.data.rows import Source


def held_out_digests(source: Source) -> set[bytes]:
    """16 bytes of each held-out row of a section, equal for rows that differ in white space alone."""
    return {digest(row) for row in sources.held_out_rows(source)}


def digest(row: Document | Conversation) -> bytes:
    """Of the row's words, one blank between two."""
    return hashlib.blake2b(" ".join(" ".join(_texts(row)).split()).encode(), digest_size=16).digest()


def _texts(row: Document | Conversation) -> Iterable[str]:
    if isinstance(row, Document) or row.text:
        yield row.text
        return
    for message in row.messages:
        yield f"{message['role']}: {message['content']}"
        yield from (str(call["function"]) for call in message.get("tool_calls", ()))
