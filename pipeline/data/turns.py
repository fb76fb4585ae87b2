"""Whose turn a token stands in, and how many tokens each role and each source has: for the report, not for training."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from pipeline.data.conversation import Message

ROLES = ("system", "user", "assistant", "tool", "text")


class Turns(NamedTuple):
    """Where in a rendered text each message's content begins, M of them in order: int64 [M], and whose it is."""

    begins: np.ndarray
    roles: np.ndarray

    def at(self, ends: np.ndarray) -> np.ndarray:
        """The role, uint8 [N], of stretches that end at these characters; what stands before a turn's content
        counts with the turn before, and at the beginning with the first."""
        if not len(self.begins):
            return np.full(len(ends), ROLES.index("text"), np.uint8)
        return self.roles[np.maximum(np.searchsorted(self.begins, ends) - 1, 0)]


def turns_of(text: str, messages: list[Message]) -> Turns:
    """The turns of masked `messages` in the text that a template made of them; what it altered is not found."""
    begins, roles, place = [], [], 0
    for message in messages:
        calls = message.get("tool_calls") or ()
        words = (message.get("content") or "").strip() or (calls[0]["function"]["name"] if calls else "")
        found = text.find(words, place) if words else -1
        if found >= 0:
            begins.append(found)
            roles.append(ROLES.index(message["role"]))
            place = found + len(words)
    return Turns(np.array(begins, np.int64), np.array(roles, np.uint8))


class Tally:
    """Rows, tokens and taught tokens of each source and role."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()
        self.tokens: Counter[tuple[str, str]] = Counter()
        self.taught: Counter[tuple[str, str]] = Counter()

    def add(self, sources: list[str], lengths: np.ndarray, roles: np.ndarray, targets: np.ndarray) -> None:
        """sources: of each row; lengths: its tokens, [D]; roles, targets: of each token, [N]."""
        self.rows.update(sources)
        names = sorted(set(sources))
        numbers = np.repeat(np.array([names.index(name) for name in sources]), lengths)
        cells = numbers * len(ROLES) + roles
        for counter, weights in ((self.tokens, None), (self.taught, targets > 0)):
            for cell, count in enumerate(np.bincount(cells, weights)):
                if count:
                    counter[names[cell // len(ROLES)], ROLES[cell % len(ROLES)]] += int(count)

    def as_json(self) -> dict[str, Any]:
        """`by_source`: {name: {rows, tokens, taught_tokens}}; `by_role`: {role: {tokens, taught_tokens}}."""

        def counts(place: int, name: str) -> dict[str, int]:
            pairs = (("tokens", self.tokens), ("taught_tokens", self.taught))
            return {
                key: sum(n for cell, n in counter.items() if cell[place] == name) for key, counter in pairs
            }

        roles = [role for role in ROLES if any(role == found for _, found in self.tokens)]
        return {
            "by_source": {name: {"rows": rows} | counts(0, name) for name, rows in self.rows.items()},
            "by_role": {role: counts(1, role) for role in roles},
        }
