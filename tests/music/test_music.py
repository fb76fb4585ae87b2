"""Catches notes that are lost on the way to words and back, keys that leak, scores that a known answer refutes."""

import shutil

import numpy as np
import pytest

from pipeline.data.rows import BadRow
from pipeline.run.errors import UserError
from recipes.music import pieces, render, scores
from recipes.music.baselines import RepeatedBar
from recipes.music.config import Music
from recipes.music.edit import _first, _last
from recipes.music.pieces import changed, intervals, melody, opening, read
from recipes.music.prepare import copies_of, is_held_out
from recipes.music.render import RATE, roll
from recipes.music.words import BAR, FILL, bars_of, errors_of, notes_of, score_of, to_fill, words, words_of
from tests.music.cases import score_with, write_midi, write_sheet

REMI, COMPACT = Music(source="bach"), Music(source="bach", scheme="compact")


def notes(score) -> list[tuple[float, int, float]]:
    """(beat, pitch, beats) of every note."""
    quarter = score.ticks_per_quarter
    found = [(n.time / quarter, n.pitch, n.duration / quarter) for track in score.tracks for n in track.notes]
    return sorted(found)


TUNE = [
    (0, 60, 1),
    (1, 62, 0.5),
    (1.5, 64, 0.5),
    (2, 65, 2),
    (2, 48, 2),
    (4, 67, 1),
    (6.25, 72, 0.75),
    (8, 60, 4),
]


@pytest.mark.parametrize("data", [REMI, COMPACT], ids=["remi", "compact"])
def test_notes_come_back_from_their_words(data):
    text = " ".join(words_of(score_with(TUNE), data))
    assert notes(score_of(text, data)) == sorted((float(b), p, float(d)) for b, p, d in TUNE)
    assert notes_of(text) == len(TUNE) and errors_of(text, data) == 0
    assert len(bars_of(text.split())) == 3
    assert ("+" in text) == (data.scheme == "compact")


def test_compact_words_say_what_remis_say_in_fewer():
    plain, compact = (" ".join(words_of(score_with(TUNE), data)) for data in (REMI, COMPACT))
    assert notes(score_of(plain, REMI)) == notes(score_of(compact, COMPACT))
    assert len(plain.split()) - len(compact.split()) == len(TUNE)


def test_every_pitch_has_every_duration_in_use():
    config = type("config", (), {"data": COMPACT})
    vocabulary = words(config, [" ".join(words_of(score_with(TUNE), COMPACT))])
    moved = changed(score_with(TUNE), 5, 1.1)
    assert set(words_of(moved, COMPACT)) <= set(vocabulary) and len(set(vocabulary)) == len(vocabulary)
    assert vocabulary[-1].startswith("Pitch_108+") and set(FILL) < set(vocabulary)


def test_instruments_have_words_where_asked():
    score = score_with(TUNE, [(0, 36, 1), (4, 38, 1)], programs=(40, 0))
    data = Music(source="bach", programs=True)
    text = " ".join(words_of(score, data))
    assert "Program_40" in text and "Program_0" in text
    assert notes(score_of(text, data)) == notes(score)
    assert {track.program for track in score_of(text, data).tracks} == {40, 0}


def test_a_sheet_is_read_as_it_sounds(tmp_path):
    """Ties are one note, voices that meet are one, the second voice begins where the first did."""
    found = read(write_sheet(tmp_path / "a.musicxml"), False)
    assert notes(found) == [(0, 48, 4), (0, 60, 2), (2, 64, 4), (4, 55, 4)]
    assert [(m.numerator, m.denominator) for m in found.time_signatures] == [(4, 4)]
    assert [round(m.qpm) for m in found.tempos] == [90]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.mid", b"MThd", "expected: a MIDI file"),
        ("a.musicxml", b"<score-partwise><part>", "ParseError"),
        ("a.xml", b"<a/>", "expected: a MusicXML file"),
        ("a.mxl", b"PK", "expected: a MusicXML file"),
    ],
)
def test_a_broken_file_is_refused_with_its_reason(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRow, match=said):
        read(tmp_path / name, False)


def test_a_piece_without_pitches_is_refused(tmp_path):
    for score, said in ((score_with([]), "no notes"), (score_with([(0, 36, 1)], drums=True), "drums alone")):
        write_midi(tmp_path / "a.mid", score)
        for programs in (False, True):
            with pytest.raises(BadRow, match=said):
                read(tmp_path / "a.mid", programs)


def test_drums_beside_notes_are_left_out(tmp_path):
    score = score_with(TUNE, [(0, 36, 1)])
    score.tracks[1].is_drum = True
    write_midi(tmp_path / "a.mid", score)
    assert notes(read(tmp_path / "a.mid", False)) == sorted((float(b), p, float(d)) for b, p, d in TUNE)


def test_a_copy_has_the_intervals_of_the_piece_in_another_key_and_tempo():
    score = score_with(TUNE)
    moved = changed(score, -3, 1.5)
    assert intervals(melody(moved)) == intervals(melody(score))
    assert {p - q for (_, p, _), (_, q, _) in zip(notes(score), notes(moved), strict=True)} == {3}
    assert moved.tempos[0].qpm == pytest.approx(1.5 * score.tempos[0].qpm) and score.tempos[0].qpm == 100
    assert opening(moved) == opening(score) and is_held_out(moved, REMI) == is_held_out(score, REMI)


def test_copies_are_a_function_of_seed_and_key_and_some_are_to_be_filled_in():
    score, data = score_with(TUNE), REMI.model_copy(update={"infill": 0.5, "transpose": 6, "copies": 12})
    copies = copies_of("a", score, data)
    assert copies == copies_of("a", score, data) and copies != copies_of("b", score, data)
    assert len(set(copies)) == 12
    to_be = [copy for copy in copies if copy.startswith(FILL[0])]
    assert 0 < len(to_be) < 12
    for copy in to_be:
        before, rest = copy.removeprefix(FILL[0]).split(FILL[1])
        behind, middle = rest.split(FILL[2])
        assert notes_of(before + middle + behind) == len(TUNE)
        assert middle.split()[0] == BAR and (not before or before.split()[0] == BAR)


def test_bars_around_a_gap_are_the_nearest_that_fit():
    bars = [[BAR] + ["w"] * size for size in (9, 2, 3)]
    assert _last(bars, 8) == bars[1:] and _last(bars, 1) == bars[2:] and _last(bars, 99) == bars
    assert _first(bars, 5) == bars[:1] and _first(bars, 14) == bars[:2] and _first([], 5) == []
    assert to_fill(bars, 1, 2) == [FILL[0], *bars[0], FILL[1], *bars[2], FILL[2], *bars[1]]


def test_a_bar_again_is_foretold_and_probabilities_sum_to_one():
    bar, other = [9, 3, 4, 5], [9, 6, 7, 8]
    documents = [np.array([0, *bar * 6, 1])] * 3 + [np.array([0, *bar, *other, 1])]
    model = RepeatedBar(documents, bar=9, vocabulary=10)
    assert 0.5 < model.share < 0.7
    again, fresh = (np.array([0, *bar, *second, 1]) for second in (bar, other))
    assert model.nats(again) < model.nats(fresh)
    prefix = [0, *bar, 9, 3]
    whole = sum(np.exp(model.nats(np.array(prefix)) - model.nats(np.array([*prefix, w]))) for w in range(10))
    assert whole == pytest.approx(1)


def test_a_groove_is_how_alike_bars_are():
    same = score_with([(bar * 4 + beat, 60, 1) for bar in range(3) for beat in range(4)])
    assert scores.groove(same) == 1
    half = score_with(
        [(0, 60, 1), (2, 60, 1), (5, 60, 1), (7, 60, 1)]
    )  # no onset in common: 4 of 16 places differ
    assert scores.groove(half) == pytest.approx(1 - 4 / 16)


def test_pitch_classes_are_counted_from_the_commonest():
    score = score_with([(0, 62, 3), (3, 69, 1)])
    moved = changed(score, 4, 1.0)
    expected = np.zeros(12)
    expected[[0, 7]] = 0.75, 0.25
    for each in (score, moved):
        np.testing.assert_allclose(scores.pitch_classes(each), expected)


def test_distances_of_a_set_from_itself_are_none():
    one, other = np.eye(12)[[0, 1]], np.eye(12)[[0, 2]]
    assert scores.histogram_distance(one, one) == 0 and scores.histogram_distance(one, other) == 0.5
    assert scores.value_distance(np.array([1.0, 2.0]), np.array([1.5, 2.5])) == pytest.approx(0.5)


def test_the_longest_shared_run_is_found_in_any_key():
    random = np.random.default_rng(0)
    known = [random.integers(-4, 5, 60).tolist() for _ in range(8)]
    shared = scores.Shared(known)
    for length in (5, 17, 60):
        line = [
            *random.integers(-4, 5, 6).tolist(),
            11,
            *known[3][:length],
            11,
            *random.integers(-4, 5, 6).tolist(),
        ]
        score = score_with([(n, 64 + pitch % 40, 1) for n, pitch in enumerate(np.cumsum([0, *line]) * 0)])
        pitches = np.cumsum([0, *line])
        for note, pitch in zip(score.tracks[0].notes, pitches - pitches.min() + 10, strict=True):
            note.pitch = int(pitch)
        assert scores.Shared(known).longest(score) >= length
        assert shared.longest(score) == brute(line, known)


def brute(line: list[int], known: list[list[int]]) -> int:
    return max(
        size
        for size in range(len(line) + 1)
        if any(
            line[i : i + size] == other[j : j + size]
            for i in range(len(line) - size + 1)
            for other in known
            for j in range(len(other) - size + 1)
        )
    )


def test_a_roll_has_ink_where_a_note_is_and_a_tone_its_frequency(monkeypatch):
    score = score_with([(0, 69, 4)])
    page = roll(score, bars=2)
    rows, columns = np.nonzero((page == (40, 70, 140)).all(-1))
    assert columns.min() == 0 and columns.max() == 720 * 4 // 8 - 2 and len(set(rows)) == 3
    with monkeypatch.context() as without:
        without.setattr(render, "_font", lambda: None)
        heard_as_written(*render.sound(score, 2.0), "additive tones")


@pytest.mark.skipif(
    not shutil.which("fluidsynth") or not render._font(), reason="no FluidSynth and soundfont"
)
def test_fluidsynth_plays_the_notes_as_written():
    heard_as_written(*render.sound(score_with([(0, 69, 4)]), 2.0), "FluidSynth")


def heard_as_written(wave: np.ndarray, by: str, maker: str) -> None:
    """An A of two seconds and more, at the loudness of every piece."""
    assert by == maker
    assert len(wave) == 2 * RATE and np.abs(wave).max() == pytest.approx(0.9 * 32767, abs=1)
    peak = np.abs(np.fft.rfft(wave)).argmax() / 2.0
    assert peak == pytest.approx(440, abs=1)


def test_a_folder_without_pieces_is_refused(tmp_path):
    (tmp_path / "a.txt").touch()
    for path, said in (
        (tmp_path, "no piece in"),
        (tmp_path / "x", "no folder at"),
        (None, "data.path is missing"),
    ):
        with pytest.raises(UserError, match=said):
            pieces.check(Music(path=None if path is None else str(path)))


def test_the_chorales_are_those_that_music21_brings():
    found = pieces.files(Music(source="bach"))
    assert len(found) > 400 and all(path.suffix == ".mxl" for _, path in found)
    score = read(found[0][1], False)
    assert len(score.tracks) == 1
    assert notes_of(" ".join(words_of(score, REMI))) > 400
