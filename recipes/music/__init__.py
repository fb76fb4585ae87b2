"""The music family: a decoder on the bars of MIDI and MusicXML pieces, and pieces continued and filled in."""

from functools import partial
from pathlib import Path

from pipeline.run.stage import Stage
from recipes.common.symbols.config import fitted as fitted
from recipes.common.symbols.stages import symbol_stages
from recipes.music.config import MusicConfig
from recipes.music.pieces import files_of

CONFIG = MusicConfig
HEADLINE = ("nats per note", "pitch-class distance", "longest melody shared with training")
USES = (
    "Go on with a piece: headwater continue {run} FILE.mid OUT.mid",
    "Fill bars in: headwater infill {run} FILE.mid OUT.mid --bars 5-8",
)


def stages(config: MusicConfig) -> tuple[Stage, ...]:
    """prepare, tokenize, train, evaluate, sample, export, report."""
    return symbol_stages(config, partial(files_of, config.data))


def continued(config: MusicConfig, file: Path, out: Path, seed: int) -> str:
    """What `headwater continue` does and says."""
    from recipes.music.edit import write_continued

    return write_continued(config, file, out, seed)


def infilled(config: MusicConfig, file: Path, out: Path, seed: int, bars: str) -> str:
    """What `headwater infill` does and says."""
    from recipes.music.edit import write_filled

    return write_filled(config, file, out, bars, seed)
