"""Rows that occur in both splits: what is held out would have been learnt by heart."""

import hashlib
from collections.abc import Iterable

from pipeline.data.conversation import Conversation, Document, Message, Preference, Prompt


def digest(row: Document | Conversation | Preference | Prompt) -> bytes:
    """16 bytes of the row's words, equal for rows that differ in white space alone."""
    return hashlib.blake2b(" ".join(" ".join(_texts(row)).split()).encode(), digest_size=16).digest()


def _texts(row: Document | Conversation | Preference | Prompt) -> Iterable[str]:
    if isinstance(row, Preference):
        for messages in (row.prompt, *row.answers):
            yield from _words(messages)
        return
    if isinstance(row, Document) or row.text:
        yield row.text
        return
    yield from _words(row.messages)
    if isinstance(row, Prompt):
        yield str(row.columns)


def _words(messages: Iterable[Message]) -> Iterable[str]:
    for message in messages:
        yield f"{message['role']}: {message['content']}"
        yield from (str(call["function"]) for call in message.get("tool_calls", ()))
