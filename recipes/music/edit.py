"""Pieces drawn, continued and filled in, as texts of words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.rows import BadRow
from pipeline.lm.model import positions_of
from pipeline.run.errors import UserError
from recipes.common.symbols.config import Decoding
from recipes.music.words import BAR, bars_of, score_of, to_fill, words_of

if TYPE_CHECKING:
    from recipes.common.symbols.model import Decoder
    from recipes.music.config import MusicConfig


def drawn(decoder: Decoder, seeds: Sequence[int], how: Decoding) -> list[str]:
    """Pieces from nothing; each opens with a bar, as those that are not to be filled in do."""
    return [f"{BAR} {written.text}" for written in decoder.draw([BAR] * len(seeds), seeds, how)]


def continued(decoder: Decoder, bars: list[list[str]], seed: int, how: Decoding) -> str:
    """The bars and what may follow; of a long piece the last bars that fit half of the model's positions are read."""
    given = " ".join(sum(bars, []))
    read = " ".join(sum(_last(bars, _room(decoder)), []))
    (written,) = decoder.draw([read], [seed], how)
    return f"{given} {written.text}"


def filled(decoder: Decoder, bars: list[list[str]], first: int, end: int, seed: int, how: Decoding) -> str:
    """The piece with other bars in place of `first` to `end` (excluded), counted from 0; those around are kept."""
    room = _room(decoder) // 2
    near, behind = _last(bars[:first], room), _first(bars[end:], room)
    ask = [*near, *bars[first:end], *behind]
    words = to_fill(ask, len(near), len(near) + end - first)
    prompt = words[: len(words) - sum(map(len, bars[first:end]))]
    (written,) = decoder.draw([" ".join(prompt)], [seed], how)
    made = bars_of([word for word in written.text.split() if not word.startswith("Fill_")])
    made = [bar for bar in made if bar[0] == BAR][: end - first]
    made += [[BAR]] * (
        end - first - len(made)
    )  # what was not written is silence: the bars behind stay in place
    return " ".join(sum([*bars[:first], *made, *bars[end:]], []))


def _room(decoder: Decoder) -> int:
    limit = positions_of(decoder.model.config)
    return (limit or 2048) // 2


def _last(bars: list[list[str]], room: int) -> list[list[str]]:
    """The last bars that have at most `room` words, one at least where there is one."""
    kept: list[list[str]] = []
    for bar in reversed(bars):
        if kept and sum(map(len, kept)) + len(bar) > room:
            break
        kept.insert(0, bar)
    return kept


def _first(bars: list[list[str]], room: int) -> list[list[str]]:
    return [bar[:] for bar in reversed(_last(bars[::-1], room))]


def read_bars(config: MusicConfig, file: Path) -> list[list[str]]:
    """The bars of a user's file.

    Raises:
        UserError: it is no piece that can be read.
    """
    from recipes.music.pieces import read

    try:
        return bars_of(words_of(read(file, config.data.programs), config.data))
    except BadRow as bad:
        raise UserError(f"{file}: {bad}") from None


def opened(config: MusicConfig) -> Decoder:
    """The run's model.

    Raises:
        UserError: it is not there yet.
    """
    from recipes.common.symbols.model import Decoder

    directory = Path(config.run.output_dir) / "train" / "model"
    if not directory.is_dir():
        raise UserError(f"{directory} is not there yet\nway out: headwater run, to its end")
    return Decoder.load(directory)


def write_continued(config: MusicConfig, file: Path, out: Path, seed: int) -> str:
    """`headwater continue`: write the piece in `file` and what may follow as MIDI; returns what was done."""
    bars = read_bars(config, file)
    text = continued(opened(config), bars, seed, config.decoding)
    return _write(
        text, config, out, f"{len(bars)} bars given, {len(bars_of(text.split())) - len(bars)} added"
    )


def write_filled(config: MusicConfig, file: Path, out: Path, bars: str, seed: int) -> str:
    """`headwater infill`: write the piece with its bars A-B, counted from 1, made anew; returns what was done.

    Raises:
        UserError: the piece has no such bars.
    """
    found = read_bars(config, file)
    first, _, last = bars.partition("-")
    numbers = [int(part) for part in (first, last or first) if part.isdigit()]
    if len(numbers) != 2 or not 1 <= numbers[0] <= numbers[1] <= len(found):
        raise UserError(f"--bars {bars}: the piece has {len(found)} bars\nexpected: A-B, such as 3-4")
    begin, end = numbers[0] - 1, numbers[1]
    text = filled(opened(config), found, begin, end, seed, config.decoding)
    return _write(text, config, out, f"bars {numbers[0]} to {end} of {len(found)} are new")


def _write(text: str, config: MusicConfig, out: Path, said: str) -> str:
    score: Any = score_of(text, config.data)
    out.parent.mkdir(parents=True, exist_ok=True)
    score.dump_midi(str(out))
    return f"{out}: {said}"
