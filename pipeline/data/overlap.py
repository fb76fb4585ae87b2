"""Rows that occur in both splits: what is held out would have been learnt by heart."""

import hashlib
from collections.abc import Iterable

from pipeline.data.conversation import Conversation, Document


def digest(row: Document | Conversation) -> bytes:
    """16 bytes of the row's words, equal for rows that differ in white space alone."""
    return hashlib.blake2b(" ".join(" ".join(_texts(row)).split()).encode(), digest_size=16).digest()


def _texts(row: Document | Conversation) -> Iterable[str]:
    if isinstance(row, Document) or row.text:
        yield row.text
        return
    for message in row.messages:
        yield f"{message['role']}: {message['content']}"
        yield from (str(call["function"]) for call in message.get("tool_calls", ()))
