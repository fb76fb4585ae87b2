"""Every setting of a music recipe, with its unit."""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.run.config import Section, what
from recipes.common.symbols.config import SymbolConfig


class Music(Section):
    """Where pieces come from, how they are written down, and which of them are held out."""

    section: ClassVar[str] = "data"

    source: Literal["bach", "folder"] = what(
        "folder",
        "bach: the chorales that music21 brings; folder: .mid, .midi, .mxl, .musicxml and .xml files",
    )
    path: str | None = what(None, "folder: where the files are, sub-folders included")
    scheme: Literal["remi", "compact"] = what(
        "remi",
        "words of miditok's REMI (arXiv:2002.00212): bars, positions, pitches, durations; compact: a pitch and its "
        "duration in one word",
    )
    programs: bool = what(False, "instruments have words; false: all play as one, and drums are left out")
    positions: int = what(8, "positions a beat at which notes begin; twice as coarse behind the fourth", ge=2)
    transpose: int = what(
        5, "training pieces are moved by up to this many semitones, up and down", ge=0, le=12
    )
    copies: int = what(6, "other keys in which a training piece is written beside its own", ge=0)
    tempo_change: float = what(0.1, "a copy's tempo is multiplied by up to 1 + this, or divided", ge=0, lt=1)
    infill: float = what(
        0.3, "share of the copies in which some bars stand behind the rest, to be filled in", ge=0, le=1
    )
    held_out: float = what(0.1, "share of pieces held out, by the opening of their melody", gt=0, lt=1)
    max_pieces: int | None = what(None, "stop after this many pieces; none: all", ge=1)
    on_bad_row: Literal["error", "skip"] = what(
        "error", "a piece that cannot be used: stop, or count and list"
    )
    seed: int = what(0, "seed of keys, tempos and bars to be filled in", ge=0)
    licence: str | None = what(None, "SPDX identifier of the pieces; known for the sources with a name")


class Evaluate(Section):
    """What is measured on held-out pieces and on drawn ones."""

    pieces: int | None = what(None, "held-out pieces scored; none: all", ge=2)
    drawn: int = what(48, "pieces drawn, compared with real ones", ge=2)
    ngram_order: int = what(5, "words in a row that the n-gram model counts", ge=1, le=8)
    resamples: int = what(1000, "bootstrap resamples behind an interval", ge=20)
    seed: int = what(0, "seed of the first piece that is drawn", ge=0)


class Sample(Section):
    """What people are shown."""

    samples: int = what(4, "pieces drawn; as many held-out pieces are continued and filled in", ge=1)
    given_bars: int = what(2, "bars of a held-out piece that are continued", ge=1)
    seconds: float = what(20.0, "of each that can be heard", gt=0)
    seed: int = what(100_000, "seed of the first", ge=0)


class MusicConfig(SymbolConfig):
    """A decoder on pieces of music, from files to a scored and exported model."""

    recipe: Literal["music"] = what(..., "the model family")
    data: Music = Field(..., description="the pieces")
    evaluate: Evaluate = Field(default=Evaluate(), description="the scoring stage")
    sample: Sample = Field(default=Sample(), description="the pieces that are shown")
