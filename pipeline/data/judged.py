"""Rows of judged answers, in the shapes that people keep them in and made from packages, as preferences.

A shape is known by its columns:
    pairs     `chosen` and `rejected`, with `prompt` or without: what both begin with is then the prompt; a number
              `margin` says how much better the chosen one is, for a reward model
    verdicts  `completion` (or `response`) and `label`, with `prompt`: whether the answer is wanted
Each of them is a text or a list of messages. A text beside a prompt is an assistant's turn; texts that stand without
one are kept as they are, outside the chat template.
"""

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from pipeline.data.config import Preferences
from pipeline.data.conversation import Message, Preference
from pipeline.data.formats import COMPLETIONS, PROMPTS, checked, listed, tools_of, with_system
from pipeline.data.rows import BadRow, Row, brief, require_unicode
from pipeline.data.stdlib import Pair, Sense

Columns = dict[str, Any]
Answer = tuple[Message, ...]

SEVERAL = "completions"  # a list of answers
EXPECTED = "expected: columns chosen and rejected, or completion and label; prompt beside them"


class Judged:
    """Parses rows of one section: the first one decides the format where it is `auto`, and the others must have it.

    unjudged: answers that nobody judged are taken too: `completion`, or a list of them as `completions`.
    """

    def __init__(self, source: Preferences, unjudged: bool = False) -> None:
        self.format = None if source.format == "auto" else source.format
        self.unjudged = unjudged

    def __call__(self, source: Preferences, row: Row) -> Iterable[Preference]:
        columns = {name: value for name, value in row.value.items() if value is not None}
        found = self.format or _detected(columns, self.unjudged)
        parsed = {"pairs": _pair, "verdicts": _verdict, "unjudged": _unjudged}[found](row.key, columns)
        self.format = found
        return [parsed]


def _detected(columns: Columns, unjudged: bool) -> str:
    if {"chosen", "rejected"} <= columns.keys():
        return "pairs"
    if "label" in columns and columns.keys() & set(COMPLETIONS):
        return "verdicts"
    if unjudged and columns.keys() & {*COMPLETIONS, SEVERAL}:
        return "unjudged"
    or_several = f"; or {SEVERAL}, a list" if unjudged else ""
    raise BadRow(
        f"the columns {', '.join(sorted(columns)) or '(none)'} hold no judged answers\n{EXPECTED}{or_several}"
    )


def _pair(key: str, columns: Columns) -> Preference:
    for name in ("chosen", "rejected"):
        if name not in columns:
            raise BadRow(f"no column {name!r}\n{EXPECTED}")
    sides = [_side(name, columns[name]) for name in ("chosen", "rejected")]
    if isinstance(sides[0], str) != isinstance(sides[1], str):
        raise BadRow(
            "one of chosen and rejected is a text, the other a list of messages\nexpected: both alike"
        )
    if sides[0] == sides[1]:
        raise BadRow("chosen and rejected are equal\nexpected: two different answers")
    if all(isinstance(side, str) for side in sides) and _prompt_of(columns) is None:
        return replace(_plain(key, *sides), margin=_margin(columns))
    if _prompt_of(columns) is None:
        shared = _in_common(*sides)
        prompt, answers = sides[0][:shared], [tuple(side[shared:]) for side in sides]
    else:
        prompt = _prompt(columns)
        answers = [
            _after(prompt, name, side) for name, side in zip(("chosen", "rejected"), sides, strict=True)
        ]
    return replace(_whole(key, columns, prompt, answers, (True, False)), margin=_margin(columns))


def _margin(columns: Columns) -> float:
    margin = columns.get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not math.isfinite(margin):
        raise BadRow(f"column 'margin' holds {brief(margin)}\nexpected: a number")
    return float(margin)


def _verdict(key: str, columns: Columns) -> Preference:
    name = next((name for name in COMPLETIONS if name in columns), None)
    if name is None:
        raise BadRow(f"no column {' or '.join(map(repr, COMPLETIONS))}\n{EXPECTED}")
    if "label" not in columns:
        raise BadRow("no label\nexpected: true for an answer that is wanted, false for one that is not")
    label = columns["label"]
    if label not in (True, False, 0, 1):
        raise BadRow(f"column 'label' holds {brief(label)}\nexpected: true or false")
    if _prompt_of(columns) is None:
        raise BadRow(f"no column 'prompt'\n{EXPECTED}")
    prompt = _prompt(columns)
    answer = _after(prompt, name, _side(name, columns[name]))
    return _whole(key, columns, prompt, [answer], (bool(label),))


def _unjudged(key: str, columns: Columns) -> Preference:
    several = columns.get(SEVERAL)
    if several is None:
        several = [columns[next(name for name in COMPLETIONS if name in columns)]]
    if not isinstance(several, list) or not several:
        raise BadRow(f"column {SEVERAL!r} holds {brief(several)}\nexpected: a list of answers")
    if _prompt_of(columns) is None:
        raise BadRow(f"no column 'prompt'\n{EXPECTED}")
    prompt = _prompt(columns)
    answers = [_after(prompt, SEVERAL, _side(SEVERAL, value)) for value in several]
    return _whole(key, columns, prompt, answers, ())


def _whole(
    key: str, columns: Columns, prompt: list[Message], answers: list[Answer], verdicts: tuple[bool, ...]
) -> Preference:
    prompt = with_system(columns, prompt) if prompt else prompt
    for answer in answers:
        if not answer:
            raise BadRow("an answer is empty after the prompt\nexpected: an assistant's turn on each side")
        if not prompt:
            raise BadRow(
                "chosen and rejected have no first message in common\nexpected: answers to one prompt"
            )
        if answer[0]["role"] != "assistant":
            raise BadRow(
                f"an answer begins with the turn of the {answer[0]['role']}\n"
                "expected: the same turns on both sides up to an assistant's"
            )
        checked([*prompt, *answer])
        if not any(message["content"].strip() or message.get("tool_calls") for message in answer):
            raise BadRow("an answer is empty\nexpected: words, or a call")
    return Preference(key, tuple(prompt), tuple(answers), verdicts, tools_of(columns))


def _plain(key: str, chosen: str, rejected: str) -> Preference:
    """Texts without turns: what both begin with, to the last space, is the prompt."""
    shared = os.path.commonprefix([chosen, rejected])
    cut = max((place for place, letter in enumerate(shared) if letter.isspace()), default=0)
    prompt, answers = shared[:cut], (chosen[cut:], rejected[cut:])
    if not all(answer.strip() for answer in answers):
        raise BadRow("one of chosen and rejected ends where the other goes on\nexpected: two answers")
    turns = tuple((_turn("assistant", answer),) for answer in answers)
    return Preference(key, (_turn("user", prompt),), turns, (True, False), plain=True)


def _turn(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def _in_common(one: list[Message], other: list[Message]) -> int:
    """How many messages both begin with."""
    alike = [a == b for a, b in zip(one, other, strict=False)]
    return alike.index(False) if False in alike else len(alike)


def _side(name: str, value: Any) -> str | list[Message]:
    if isinstance(value, str) and not _is_list(value):
        if not value.strip():
            raise BadRow(f"column {name!r} holds an empty text\nexpected: an answer")
        require_unicode(value)
        return value
    return listed(name, [value] if isinstance(value, dict) else value)


def _is_list(text: str) -> bool:
    """Whether a text is JSON of messages, as tables without lists keep them."""
    if not text.lstrip().startswith("["):
        return False
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return False
    return bool(found) and all(isinstance(part, dict) for part in found)


def _prompt_of(columns: Columns) -> str | None:
    return next((name for name in PROMPTS if name in columns), None)


def _prompt(columns: Columns) -> list[Message]:
    name = str(_prompt_of(columns))
    side = _side(name, columns[name])
    return [_turn("user", side)] if isinstance(side, str) else side


def _after(prompt: list[Message], name: str, side: str | list[Message]) -> Answer:
    """The answer alone, where the side repeats the prompt before it.

    Raises:
        BadRow: it begins with turns that are not the prompt's.
    """
    if isinstance(side, str):
        return (_turn("assistant", side),)
    if side[: len(prompt)] == prompt:
        return tuple(side[len(prompt) :])
    if side[0]["role"] != "assistant":
        raise BadRow(
            f"column {name!r} begins with {brief(side[0]['content'])}, which is not how the prompt begins\n"
            "expected: an answer, alone or after the very turns of the prompt"
        )
    return tuple(side)


def against_neighbours(key: str, pairs: list[Pair]) -> list[Preference]:
    """Each function's docstring against that of the next one in the file; none where there is no other."""
    found = []
    for number, pair in enumerate(pairs):
        other = pairs[(number + 1) % len(pairs)].answer
        if other != pair.answer:
            found.append(_made(f"{key}::{pair.name}", pair.question, pair.answer, other))
    return found


def against_others(senses: list[Sense], split_of: Callable[[str], Any]) -> Iterator[tuple[str, Preference]]:
    """Each sense's definition against another sense's of the same word, where an example says which one is meant,
    else against another word's of the same part of speech, drawn by a hash.

    split_of: of a key; a definition is set against those of its own split alone, so that no held-out one was ever
        trained on as the wrong one.
    """
    peers: dict[tuple[Any, str], list[Sense]] = defaultdict(list)
    for sense in senses:
        peers[split_of(sense.name), sense.part].append(sense)
    by_word: dict[tuple[str, str], list[Sense]] = defaultdict(list)
    for sense in senses:
        by_word[sense.word, sense.part].append(sense)
    for sense in senses:
        others = [other for other in by_word[sense.word, sense.part] if other.definition != sense.definition]
        said = next((text for text in sense.examples if sense.word.lower() in text.lower()), None)
        ask = f'Define the {sense.part} "{sense.word}"'
        drawn = int.from_bytes(hashlib.sha256(f"other {sense.name}".encode()).digest()[:8], "big")
        if said and others:
            other = others[drawn % len(others)]
            yield sense.name, _made(sense.name, f'{ask} as in: "{said}"', sense.definition, other.definition)
            continue
        among = peers[split_of(sense.name), sense.part]
        turn = (among[(drawn + step) % len(among)] for step in range(len(among)))
        other = next((o for o in turn if o.word != sense.word and o.definition != sense.definition), None)
        if other:
            yield sense.name, _made(sense.name, f"{ask}.", sense.definition, other.definition)


def _made(key: str, question: str, chosen: str, rejected: str) -> Preference:
    answers = ((_turn("assistant", chosen),), (_turn("assistant", rejected),))
    return Preference(key, (_turn("user", question),), answers, (True, False))
