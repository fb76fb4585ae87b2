"""Pieces as words of miditok's REMI and back; a text is a piece, bar by bar."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.music.config import Music, MusicConfig

if TYPE_CHECKING:
    from miditok import REMI
    from symusic import Score

PATTERN = None  # words stand apart
BAR = "Bar_None"
BEFORE, BEHIND, MIDDLE = FILL = ("Fill_Before", "Fill_Behind", "Fill_Middle")
FILE = "miditok.json"
LOWEST, HIGHEST = 21, 108  # pitches of a piano
SIGNATURES = {2: [1, 2, 3, 4], 4: [1, 2, 3, 4, 5, 6, 7], 8: [3, 5, 6, 7, 9, 12], 16: [3, 6]}


def miditok_of(data: Music) -> REMI:
    """miditok's tokenizer of these settings: its words, and how they become a piece."""
    return _miditok(data.positions, data.programs)


@cache
def _miditok(positions: int, programs: bool) -> REMI:
    from miditok import REMI, TokenizerConfig

    return REMI(
        TokenizerConfig(
            pitch_range=(LOWEST, HIGHEST),
            beat_res={(0, 4): positions, (4, 12): positions // 2},
            use_velocities=False,
            special_tokens=["PAD", "BOS", "EOS"],
            use_tempos=True,
            num_tempos=32,
            tempo_range=(40, 250),
            log_tempos=True,
            use_time_signatures=True,
            time_signature_range=SIGNATURES,
            use_programs=programs,
            one_token_stream_for_programs=True,
        )
    )


def words_of(score: Score, data: Music) -> list[str]:
    """A piece as words."""
    found = miditok_of(data)(score)
    plain = list((found if data.programs else found[0]).tokens)
    return joined(plain) if data.scheme == "compact" else plain


def joined(plain: list[str]) -> list[str]:
    """A pitch and the duration behind it as one word."""
    found: list[str] = []
    for word in plain:
        if word.startswith("Duration_") and found and re.fullmatch(r"Pitch(Drum)?_\d+", found[-1]):
            found[-1] += f"+{word}"
        else:
            found.append(word)
    return found


def score_of(text: str, data: Music) -> Score:
    """The piece that words make; those that make no note where they stand are passed over."""
    from miditok import TokSequence

    tok = miditok_of(data)
    plain = [word for word in text.replace("+", " ").split() if word in tok.vocab]
    sequence = TokSequence(tokens=plain, ids=[tok.vocab[word] for word in plain])
    return tok.decode(sequence if data.programs else [sequence])


def errors_of(text: str, data: Music) -> float:
    """Share of words that REMI would not put behind the one before."""
    from miditok import TokSequence

    tok = miditok_of(data)
    plain = [word for word in text.replace("+", " ").split() if word in tok.vocab]
    if not plain:
        return 1.0
    return float(tok.tokens_errors(TokSequence(tokens=plain, ids=[tok.vocab[word] for word in plain])))


def bars_of(words: list[str]) -> list[list[str]]:
    """The words of each bar, the word that opens it first."""
    bars: list[list[str]] = []
    for word in words:
        if word == BAR or not bars:
            bars.append([])
        bars[-1].append(word)
    return bars


def to_fill(bars: list[list[str]], first: int, end: int) -> list[str]:
    """Bars `first` to `end` (excluded) behind the others, as a model learns to fill them in."""
    before, middle, behind = bars[:first], bars[first:end], bars[end:]
    return [BEFORE, *sum(before, []), BEHIND, *sum(behind, []), MIDDLE, *sum(middle, [])]


def notes_of(text: str) -> int:
    """Notes that a text writes."""
    return len(re.findall(r"Pitch(?:Drum)?_\d+", text))


def words(config: MusicConfig, texts: Iterable[str]) -> list[str]:
    """The vocabulary: miditok's words, those that open what is filled in, and for compact pieces every pitch with every
    duration in use."""
    own = [word for word in miditok_of(config.data).vocab if not word.startswith(("PAD_", "BOS_", "EOS_"))]
    durations = sorted({word.split("+")[1] for text in texts for word in text.split() if "+" in word})
    pitches = [word for word in own if word.startswith("Pitch_") or config.data.programs and "Drum_" in word]
    return [*own, *FILL, *(f"{pitch}+{duration}" for pitch in pitches for duration in durations)]


def foretold(config: MusicConfig) -> int:
    """Entries of the vocabulary, at most."""
    own = len(miditok_of(config.data).vocab) + len(FILL) + 1
    return own if config.data.scheme == "remi" else own + 2048


def save(data: Music, directory: Path) -> None:
    """Write miditok.json, which miditok.REMI(params=...) reads."""
    miditok_of(data).save(directory, filename=FILE)


def settings_of(data: Music) -> dict[str, Any]:
    """What a reader of an export needs beside miditok.json."""
    return {"scheme": data.scheme, "programs": data.programs, "positions": data.positions}
