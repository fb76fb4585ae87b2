"""Rows that occur in both splits: what is held out would have been learnt by heart."""

import hashlib
from collections.abc import Iterable

from pipeline.data.conversation import Conversation, Document, Message, Preference, Prompt


def digest(row: Document | Conversation | Preference | Prompt) -> bytes:
    """16 bytes of the row's words, equal for rows that differ in white space alone."""
    return hashlib.blake2b(" ".join(" ".join(_texts(row)).split()).encode(), digest_size=16).digest()


class Near:
    """Whether most of a document's lines stand in held-out ones, wherever they are there.

    A line counts from LINE characters on, without the space around it: shorter ones are alike by chance.

    Args:
        held_out: the documents that are held out; share: of a document's different lines, above which it is near.
    """

    def __init__(self, held_out: Iterable[Document], share: float) -> None:
        self.share = share
        self.lines = {line for row in held_out for line in lines_of(row.text)}

    def __call__(self, row: Document) -> bool:
        own = lines_of(row.text)
        return bool(own) and len(own & self.lines) > self.share * len(own)


LINE = 20


def lines_of(text: str) -> set[bytes]:
    """8 bytes of each different line that counts."""
    stripped = {line.strip() for line in text.splitlines()}
    return {hashlib.blake2b(line.encode(), digest_size=8).digest() for line in stripped if len(line) >= LINE}


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
