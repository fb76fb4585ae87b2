"""Pieces of music as miditok takes them, from MIDI and MusicXML files."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.rows import BadRow
from pipeline.run.errors import UserError
from pipeline.run.outside import Files
from recipes.music.config import Music

if TYPE_CHECKING:
    from symusic import Score

LIBRARIES = ("miditok", "symusic", "music21", "PIL")
MIDI, SHEETS = (".mid", ".midi"), (".mxl", ".musicxml", ".xml")
TICKS = 480  # a quarter note of what is read from sheets
BACH = "the music is in the public domain; music21's encodings: BSD-3-Clause"
LICENCES = {"bach": "BSD-3-Clause"}


def check(data: Music) -> None:
    """Refuse a missing library, a folder without pieces, and the first pieces if they cannot be read.

    Raises:
        UserError: with the way out.
    """
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"music needs {name}\nway out: pip install 'headwater[music]'")
    files(data)


def files(data: Music) -> list[tuple[str, Path]]:
    """(key, file) of every piece, in the order of keys.

    Raises:
        UserError: there is none.
    """
    if data.source == "bach":
        spec = importlib.util.find_spec("music21")
        folder = Path(str(spec.origin)).parent / "corpus" / "bach" if spec else Path("music21")
        found = sorted(folder.glob("bwv*.mxl"))
        if not found:
            raise UserError(f"music21 brings no chorales: {folder} has none\nexpected: music21 from PyPI")
    else:
        folder = _folder(data)
        found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (*MIDI, *SHEETS))
        if not found:
            raise UserError(
                f"data.path: no piece in {folder}\nexpected: files such as {', '.join((*MIDI, *SHEETS))}"
            )
    return [(path.relative_to(folder).as_posix(), path) for path in found][: data.max_pieces]


def _folder(data: Music) -> Path:
    if data.path is None:
        raise UserError("data.path is missing\nexpected: a folder of pieces for source folder")
    folder = Path(data.path).expanduser()
    if not folder.is_dir():
        raise UserError(f"data.path: no folder at {folder}\nexpected: a folder of pieces")
    return folder


def files_of(data: Music) -> Files:
    """The user's own files; those with a name are pinned by their package."""
    if data.source == "bach" or not data.path or not Path(data.path).expanduser().is_dir():
        return {}
    return dict(files(data))


def read(path: Path, programs: bool) -> "Score":
    """A piece; without `programs` all its notes on one track.

    Raises:
        BadRow: it cannot be parsed, has no note, or has drums alone.
    """
    import symusic

    try:
        score = symusic.Score(str(path)) if path.suffix.lower() in MIDI else _from_sheet(path)
    except (RuntimeError, ValueError) as error:
        raise BadRow(f"{' '.join(str(error).split())[:200]}\nexpected: a MIDI file") from None
    if not any(len(track.notes) for track in score.tracks):
        raise BadRow("it has no notes\nexpected: a piece of music")
    pitched = [track for track in score.tracks if not track.is_drum and len(track.notes)]
    if not pitched:
        raise BadRow("it has drums alone\nexpected: notes with a pitch")
    return score if programs else _on_one_track(score, pitched)


def _on_one_track(score: "Score", pitched: list) -> "Score":
    import symusic

    made = symusic.Score(score.ticks_per_quarter)
    made.tempos, made.time_signatures = score.tempos, score.time_signatures
    track = symusic.Track(program=0, name="all")
    seen = set()
    for note in sorted(
        (note for each in pitched for note in each.notes), key=lambda n: (n.time, n.pitch, -n.duration)
    ):
        if (note.time, note.pitch) not in seen:  # voices that meet are one note
            seen.add((note.time, note.pitch))
            track.notes.append(note)
    made.tracks.append(track)
    return made


def _from_sheet(path: Path) -> "Score":
    """What is written in a MusicXML file, ties joined, chord symbols and grace notes left out."""
    import symusic
    from music21 import converter, harmony

    try:
        sheet = converter.parse(path, forceSource=True)
        score = symusic.Score(TICKS)
        whole = sheet.flatten()
        for mark in whole.getElementsByClass("MetronomeMark"):
            if mark.getQuarterBPM():
                score.tempos.append(symusic.Tempo(_ticks(mark.offset), mark.getQuarterBPM()))
        signatures = {_ticks(mark.offset): mark for mark in whole.getElementsByClass("TimeSignature")}
        for tick, mark in sorted(signatures.items()):
            score.time_signatures.append(symusic.TimeSignature(tick, mark.numerator, mark.denominator))
        for part in sheet.parts if hasattr(sheet, "parts") and len(sheet.parts) else [sheet]:
            track = symusic.Track(
                program=_program(part), name=str(part.partName or "") if hasattr(part, "partName") else ""
            )
            for element in part.stripTies().flatten().notes:
                length = _ticks(element.duration.quarterLength)
                if length and not isinstance(element, harmony.ChordSymbol):
                    for pitch in element.pitches:
                        track.notes.append(symusic.Note(_ticks(element.offset), length, pitch.midi, 80))
            score.tracks.append(track)
    except Exception as error:  # music21 raises whatever its parsers do
        reason = " ".join(str(error).split())[:200]
        raise BadRow(f"{type(error).__name__}: {reason}\nexpected: a MusicXML file") from None
    return score


def _ticks(quarters: float) -> int:
    return round(float(quarters) * TICKS)


def _program(part) -> int:
    instrument = part.getInstrument(returnDefault=False) if hasattr(part, "getInstrument") else None
    return instrument.midiProgram if instrument is not None and instrument.midiProgram is not None else 0


def changed(score: "Score", semitones: int, tempo: float) -> "Score":
    """A copy in another key and at `tempo` times its speed; drums keep their instruments."""
    made = score.copy()
    for track in made.tracks:
        if not track.is_drum:
            for note in track.notes:
                note.pitch = min(127, max(0, note.pitch + semitones))
    for mark in made.tempos:
        mark.qpm = mark.qpm * tempo
    return made


def melody(score: "Score") -> list[int]:
    """Pitches of the highest note at each onset."""
    top: dict[int, int] = {}
    for track in score.tracks:
        for note in () if track.is_drum else track.notes:
            top[note.time] = max(top.get(note.time, 0), note.pitch)
    return [pitch for _, pitch in sorted(top.items())]


def intervals(pitches: list[int]) -> list[int]:
    """Semitones from each note to the next."""
    return [after - before for before, after in zip(pitches, pitches[1:], strict=False)]


def opening(score: "Score", length: int = 8) -> str:
    """The first intervals of the melody: settings of one tune share them, in any key."""
    return " ".join(map(str, intervals(melody(score))[:length]))


def pieces(data: Music) -> Iterator[tuple[str, Path, "Score | BadRow"]]:
    """(key, file, piece or why there is none) of each."""
    for key, path in files(data):
        try:
            yield key, path, read(path, data.programs)
        except BadRow as bad:
            yield key, path, bad
