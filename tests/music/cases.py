"""Small pieces for the tests of music."""

from pathlib import Path

import symusic

QUARTER = 480
SHEET = """<?xml version="1.0" encoding="UTF-8"?>
<score-partwise version="3.1">
  <part-list><score-part id="P1"><part-name>Piano</part-name></score-part></part-list>
  <part id="P1">
    <measure number="1">
      <attributes><divisions>1</divisions><time><beats>4</beats><beat-type>4</beat-type></time></attributes>
      <direction><direction-type><metronome><beat-unit>quarter</beat-unit><per-minute>90</per-minute></metronome>
      </direction-type><sound tempo="90"/></direction>
      <note><pitch><step>C</step><octave>4</octave></pitch><duration>2</duration><voice>1</voice></note>
      <note><pitch><step>E</step><octave>4</octave></pitch><duration>2</duration><tie type="start"/>
        <voice>1</voice></note>
      <backup><duration>4</duration></backup>
      <note><pitch><step>C</step><octave>3</octave></pitch><duration>4</duration><voice>2</voice></note>
    </measure>
    <measure number="2">
      <note><pitch><step>E</step><octave>4</octave></pitch><duration>2</duration><tie type="stop"/>
        <voice>1</voice></note>
      <note><rest/><duration>2</duration><voice>1</voice></note>
      <backup><duration>4</duration></backup>
      <note><pitch><step>G</step><octave>3</octave></pitch><duration>4</duration><voice>2</voice></note>
    </measure>
  </part>
</score-partwise>
"""


def score_with(*tracks: list, programs: tuple[int, ...] = (0, 0), drums: bool = False) -> symusic.Score:
    """A piece at 100 beats a minute in four-four time; a track is a list of (beat, pitch, beats)."""
    score = symusic.Score(QUARTER)
    score.tempos.append(symusic.Tempo(0, 100))
    score.time_signatures.append(symusic.TimeSignature(0, 4, 4))
    for notes, program in zip(tracks, programs, strict=False):
        track = symusic.Track(program=program, is_drum=drums)
        for beat, pitch, beats in notes:
            track.notes.append(symusic.Note(round(beat * QUARTER), round(beats * QUARTER), int(pitch), 80))
        score.tracks.append(track)
    return score


def write_midi(path: Path, score: symusic.Score) -> Path:
    score.dump_midi(str(path))
    return path


def write_sheet(path: Path) -> Path:
    path.write_text(SHEET)
    return path


def write_pieces(folder: Path, count: int) -> Path:
    """MIDI files of four bars, each of a tune of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        line = [(beat, 55 + (beat * (number + 2)) % 17, 1) for beat in range(16)]
        write_midi(folder / f"{number:02}.mid", score_with([*line, *((4 * bar, 43, 4) for bar in range(4))]))
    return folder
