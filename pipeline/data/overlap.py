"""Rows that occur in both splits: what is held out would have been learnt by heart."""

import hashlib
import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

from pipeline.data.conversation import Conversation, Document, Message, Preference, Prompt
from pipeline.run.errors import UserError


def digest(row: Document | Conversation | Preference | Prompt) -> bytes:
    """16 bytes of the row's words, equal for rows that differ in white space alone."""
    return hashlib.blake2b(" ".join(" ".join(_texts(row)).split()).encode(), digest_size=16).digest()


class Sieve:
    """What is left out of a section's training rows, and how much of it, in words.

    Args:
        name: what the rows are; held: digests of those that are held out; overlap: `drop` or `keep` for rows among
            them; near: says of a row whether most of its lines are held out; duplicates: `drop` or `keep` for rows that
            came before; alike: says of a row whether nearly the same came before.
    """

    def __init__(
        self,
        name: str,
        held: set[bytes],
        overlap: str,
        near: Callable[[Any], bool] | None = None,
        duplicates: str = "keep",
        alike: Callable[[Any], bool] | None = None,
    ) -> None:
        self.held, self.overlap, self.near, self.duplicates = held, overlap, near, duplicates
        self.alike = alike
        self.seen: set[bytes] = set()
        fate = "kept" if overlap == "keep" else "left out"
        self.words = (
            f"training {name} {fate}: the same are held out",
            f"training {name} left out: most of their lines are held out",
            f"training {name} left out: the same came before",
            f"training {name} left out: nearly the same came before",
        )
        self.counts = [0] * len(self.words)

    def __call__(self, rows: list[Any]) -> list[Any]:
        return [row for row in rows if self._stays(row)]

    def _stays(self, row: Any) -> bool:
        own = digest(row)
        if own in self.held:
            self.counts[0] += 1
            if self.overlap == "drop":
                return False
        if self.near and self.near(row):
            self.counts[1] += 1
            return False
        if self.duplicates == "drop":
            if own in self.seen:
                self.counts[2] += 1
                return False
            self.seen.add(own)
        if self.alike and self.alike(row):
            self.counts[3] += 1
            return False
        return True

    @property
    def notes(self) -> dict[str, int]:
        return {words: count for words, count in zip(self.words, self.counts, strict=True) if count}


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


PERMUTATIONS, PHRASE = 128, 5  # of a MinHash; words


class Alike:
    """Whether nearly the same document came before: one whose phrases agree in more than `share` (Jaccard), estimated.

    A document of fewer words than a phrase has is one phrase.
    """

    def __init__(self, share: float) -> None:
        from datasketch import MinHash, MinHashLSH

        self.share, self.empty = share, MinHash(PERMUTATIONS)
        self.index = MinHashLSH(share, PERMUTATIONS)
        self.seen: list[Any] = []

    def __call__(self, row: Document) -> bool:
        words = row.text.split()
        phrases = {" ".join(words[n : n + PHRASE]) for n in range(max(1, len(words) - PHRASE + 1))}
        own = self.empty.copy()
        own.update_batch([phrase.encode() for phrase in sorted(phrases)])
        if any(own.jaccard(self.seen[number]) > self.share for number in self.index.query(own)):
            return True
        self.index.insert(len(self.seen), own)
        self.seen.append(own)
        return False


def check_near_duplicates() -> None:
    """Raises UserError where what finds them is not installed."""
    if importlib.util.find_spec("datasketch") is None:
        raise UserError(
            "corpus.near_duplicates needs datasketch, which is not installed\nway out: pip install headwater[filter]"
        )


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
