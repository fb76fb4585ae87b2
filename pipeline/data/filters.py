"""Documents that are left out for what they are, private details that are masked, and what both took."""

import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from pipeline.data.config import Filters
from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

EXAMPLES, SHOWN = 20, 300  # kept of each reason, and characters of one
PHRASE = 5  # words
LANGUAGE_CHARACTERS = 2000  # of a document, by which its language is told
SYMBOL = re.compile(r"[^\w\s]|_")
PRIVATE = {
    "email": re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"),
    # Four numbers up to 255, beside which no further number or dot stands: versions have other lengths.
    "ip": re.compile(
        r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w]|\.\d)"
    ),
    "phone": re.compile(r"(?<![\w+])\+\d(?:[ .()/-]{0,2}\d){7,14}(?!\w)"),
}


@dataclass
class Filtered:
    """What filters took. counts, characters: of each reason; masked: details by kind; examples: the first ones."""

    counts: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, reason: str, key: str, text: str) -> None:
        self.counts[reason] += 1
        self.characters[reason] += len(text)
        shown = self.examples.setdefault(reason, [])
        if len(shown) < EXAMPLES:
            shown.append({"reason": reason, "key": key, "characters": len(text), "text": text[:SHOWN]})

    @property
    def notes(self) -> dict[str, int]:
        """Counts by words that name the setting."""
        taken = {
            f"documents left out by filters.{reason}, {self.characters[reason]:,} characters": count
            for reason, count in self.counts.items()
        }
        return taken | {f"{kind} masked": count for kind, count in sorted(self.masked.items())}


def kept(filters: Filters, key: str, text: str, filtered: Filtered) -> str | None:
    """The document's text, masked where that is asked for; None: a filter takes it. The first reason counts."""
    for reason, takes in _checks(filters):
        if takes(text):
            filtered.add(reason, key, _masked(filters, text, Counter()))
            return None
    return _masked(filters, text, filtered.masked)


def _masked(filters: Filters, text: str, counts: Counter[str]) -> str:
    for kind in filters.mask:
        text, count = PRIVATE[kind].subn(f"<{kind}>", text)
        if count:
            counts[kind] += count
    return text


@cache
def _checks(filters: Filters) -> tuple[tuple[str, Callable[[str], bool]], ...]:
    """What may take a document, cheapest first."""
    return tuple(_made(filters))


def _made(filters: Filters) -> Iterator[tuple[str, Callable[[str], bool]]]:
    if (least := filters.min_characters) is not None:
        yield "min_characters", lambda text: len(text) < least
    if (most := filters.max_characters) is not None:
        yield "max_characters", lambda text: len(text) > most
    if filters.keep is not None:
        wanted = re.compile(filters.keep)
        yield "keep", lambda text: wanted.search(text) is None
    for pattern in filters.drop:
        refused = re.compile(pattern)
        yield f"drop {pattern!r}", lambda text, refused=refused: refused.search(text) is not None
    shares = {"symbols": symbols, "repeated_lines": repeated_lines, "repeated_phrases": repeated_phrases}
    for name, share in ((f"max_{name}", share) for name, share in shares.items()):
        if (limit := getattr(filters, name)) is not None:
            yield name, lambda text, share=share, limit=limit: share(text) > limit
    if filters.languages:
        yield "languages", lambda text: language(text) not in filters.languages


def symbols(text: str) -> float:
    """Characters that are neither letters, digits nor space, as a share of those that are no space."""
    seen = len("".join(text.split()))
    return len(SYMBOL.findall(text)) / max(seen, 1)


def repeated_lines(text: str) -> float:
    """Characters of lines that came before in the document, as a share of those of all lines, without their space."""
    lines = [line for line in map(str.strip, text.splitlines()) if line]
    again = sum(len(line) * (count - 1) for line, count in Counter(lines).items())
    return again / max(sum(map(len, lines)), 1)


def repeated_phrases(text: str) -> float:
    """Words within a phrase of PHRASE words that came before in the document, as a share of all words."""
    words, seen, again, covered = text.split(), set(), 0, 0
    for start in range(len(words) - PHRASE + 1):
        phrase = hash(tuple(words[start : start + PHRASE]))
        if phrase in seen:
            again += start + PHRASE - max(start, covered)
            covered = start + PHRASE
        seen.add(phrase)
    return again / max(len(words), 1)


def language(text: str) -> str:
    """The ISO 639-1 code of the language that the document's first characters are in, by py3langid's model."""
    return _identifier().classify(text[:LANGUAGE_CHARACTERS])[0]


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


def check(filters: Filters) -> None:
    """Refuse what cannot be asked of the document here.

    Raises:
        UserError: languages without the model, or one that it does not know.
    """
    if not filters.languages:
        return
    if importlib.util.find_spec("py3langid") is None:
        raise UserError(
            "corpus.filters.languages needs py3langid, which is not installed\nway out: pip install headwater[filter]"
        )
    known = set(_identifier().labels)
    if unknown := [name for name in filters.languages if name not in known]:
        raise UserError(
            f"corpus.filters.languages: {', '.join(unknown)} is no language that py3langid tells\n"
            f"expected: of {' '.join(sorted(known))}"
        )
