"""Catches a music or molecule recipe that breaks between its stages, or an export that does not stand alone."""

import json
import re
import subprocess
import sys
import wave

import pytest
import symusic
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.run.artifact import verify_chain
from tests.molecules.cases import SMILES, write_csv
from tests.music.cases import score_with, write_midi, write_pieces
from tests.whole.command import ROOT, headwater, manifest

NET = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
NET |= {"num_key_value_heads": 2, "head_dim": 16}
SHORT = (
    f"model.config={NET}",
    "train.max_steps=6",
    "train.warmup_steps=0",
    "train.train_batch_size=4",
    "train.per_device_train_batch_size=2",
    "train.torch_compile=false",
    "evaluate.resamples=20",
    "run.eval_steps=3",
    "run.save_steps=3",
    "run.logging_steps=1",
    "run.threads=1",
)


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """(the words of the command, the directory of its run, how it ended)."""
    place = tmp_path_factory.mktemp("music")
    folder = write_pieces(place / "pieces", 16)
    words = [
        "recipes/music/bach.yaml",
        *SHORT,
        "data.source=folder",
        f"data.path={folder}",
        "data.held_out=0.25",
    ]
    words += ["data.copies=2", "train.sequence_length=128", "decoding.max_new_tokens=40", "evaluate.drawn=4"]
    words += [
        "sample.samples=2",
        "sample.given_bars=1",
        "sample.seconds=2",
        f"run.output_dir={place / 'run'}",
    ]
    return words, place / "run", headwater("run", *words)


@pytest.fixture(scope="module")
def molecules(tmp_path_factory):
    place = tmp_path_factory.mktemp("molecules")
    table = write_csv(place / "m.csv", SMILES)
    words = [
        "recipes/molecules/moses.yaml",
        *SHORT,
        "data.source=csv",
        f"data.path={table}",
        "data.held_out=0.2",
    ]
    words += ["data.held_out_scaffolds=0.2", "train.sequence_length=64", "decoding.max_new_tokens=20"]
    words += [
        "evaluate.drawn=60",
        "evaluate.asked=2",
        "sample.samples=4",
        "data.processes=1",
        "evaluate.fcd=false",
    ]
    words += [f"run.output_dir={place / 'run'}"]
    return words, place / "run", headwater("run", *words)


STAGES = {"prepare", "tokenize", "train", "evaluate", "sample", "export", "report"}


@pytest.mark.parametrize("family", ["music", "molecules"])
def test_every_stage_is_made_and_its_lineage_holds(family, request):
    words, output, done = request.getfixturevalue(family)
    assert (done.code, done.err) == (0, "")
    assert {path.parent.name for path in output.glob("*/artifact.json")} == STAGES
    assert manifest(output, "train")["made"]["world_size"] == 2
    verify_chain(output / "export")
    assert "headwater chat" not in done.out
    assert "up to date, nothing to do" in headwater("run", *words).out
    ledger = json.loads((output / "prepare/ledger.json").read_text())
    ((counts,),) = [table for name, table in ledger.items() if name != "skipped"]
    (came,) = (count for name, count in counts.items() if name.endswith("_in"))
    assert 2 * came == sum(counts.values()) > 0


@pytest.mark.parametrize("family", ["music", "molecules"])
def test_the_export_loads_with_transformers(family, request):
    _, output, _ = request.getfixturevalue(family)
    AutoModelForCausalLM.from_pretrained(output / "export")
    tokenizer = AutoTokenizer.from_pretrained(output / "export")
    text = json.loads((output / "prepare/held_out.jsonl").read_text().splitlines()[0])["text"]
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    card = (output / "export/README.md").read_text()
    assert "headwater" not in card.split("## Lineage")[0].lower() or "compared" in card
    assert str(output.parent) not in card


def test_music_stands_beside_counting_and_real_pieces(music):
    _, output, _ = music
    scores = json.loads((output / "evaluate/evaluation.json").read_text())["scores"]
    found = {(score["name"], score["model"]): score for score in scores}
    assert {model for name, model in found if name == "nats per note"} == {
        "model",
        "5-gram",
        "the bar before, again",
    }
    for name in ("pitch-class distance", "groove distance"):
        assert {model for each, model in found if each == name} == {"model", "training pieces"}
    (low, high), value = (found["nats per note", "model"][name] for name in ("interval", "value"))
    assert low <= value <= high
    assert found["words out of place", "held-out pieces"]["value"] == 0


def test_pieces_can_be_seen_heard_and_opened(music):
    _, output, _ = music
    sounds = json.loads((output / "sample/sounds.json").read_text())
    assert {sound["kind"] for sound in sounds} == {"drawn", "real", "continued", "filled"}
    for sound in sounds:
        file = output / "sample" / sound["file"]
        with wave.open(str(file)) as opened:
            assert opened.getnframes() == 2 * opened.getframerate()
        symusic.Score(str(file.with_suffix(".mid")))
    page = (output / "report/report.html").read_text()
    assert page.count("<audio") == len(sounds) and "bars 1 to 1 given" in page


def test_play_alone_writes_a_piece(music, tmp_path):
    _, output, _ = music
    command = [sys.executable, "play.py", str(tmp_path / "a.mid"), "--seed", "3", "--words", "30"]
    done = subprocess.run(command, cwd=output / "export", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("Bar_None") and symusic.Score(str(tmp_path / "a.mid"))


def test_a_piece_is_continued_and_filled_in(music, tmp_path):
    _, output, _ = music
    piece = write_midi(tmp_path / "mine.mid", score_with([(beat, 60 + beat % 5, 1) for beat in range(16)]))
    before = symusic.Score(str(piece))
    done = headwater("continue", str(output), str(piece), str(tmp_path / "longer.mid"))
    assert done.code == 0 and "4 bars given" in done.out, done.err
    longer = symusic.Score(str(tmp_path / "longer.mid"))
    given = [(n.time / before.ticks_per_quarter, n.pitch) for n in before.tracks[0].notes]
    kept = [(n.time / longer.ticks_per_quarter, n.pitch) for n in longer.tracks[0].notes]
    assert set(given) <= set(kept)
    done = headwater("infill", str(output), str(piece), str(tmp_path / "filled.mid"), "--bars", "2-3")
    assert done.code == 0 and "bars 2 to 3 of 4 are new" in done.out, done.err
    filled = symusic.Score(str(tmp_path / "filled.mid"))
    around = [note for note in given if not 4 <= note[0] < 12]
    found = [(n.time / filled.ticks_per_quarter, n.pitch) for t in filled.tracks for n in t.notes]
    assert set(around) <= set(found)


@pytest.mark.parametrize(
    ("bars", "said"),
    [("0-2", "the piece has 4 bars"), ("3-9", "the piece has 4 bars"), ("x", "expected: A-B")],
)
def test_bars_that_are_not_there_are_refused(music, tmp_path, bars, said):
    _, output, _ = music
    piece = write_midi(tmp_path / "mine.mid", score_with([(beat, 60, 1) for beat in range(16)]))
    done = headwater("infill", str(output), str(piece), str(tmp_path / "out.mid"), "--bars", bars)
    assert done.code == 2 and said in done.err and not (tmp_path / "out.mid").exists()


def test_a_file_that_is_no_piece_and_a_run_of_another_family_are_refused(music, molecules, tmp_path):
    (tmp_path / "a.mid").write_bytes(b"nothing")
    done = headwater("continue", str(music[1]), str(tmp_path / "a.mid"), str(tmp_path / "out.mid"))
    assert done.code == 2 and "expected: a MIDI file" in done.err
    done = headwater("continue", str(molecules[1]), str(tmp_path / "a.mid"), str(tmp_path / "out.mid"))
    assert done.code == 2 and "is a run of molecules, which continues nothing" in done.err


def test_molecules_stand_beside_counting_chance_and_training_molecules(molecules):
    _, output, _ = molecules
    scores = json.loads((output / "evaluate/evaluation.json").read_text())["scores"]
    found = {(score["name"], score["model"]): score["value"] for score in scores}
    assert {"valid", "novel", "nats per atom"} <= {name for name, _ in found}
    for name in ("logp", "qed", "scaffold"):
        assert {(f"asked for and got: {name}", model) for model in ("model", "by chance")} <= found.keys()
    drawn = (output / "evaluate/drawn.smi").read_text().splitlines()
    assert len(drawn) == 60
    shown = json.loads((output / "sample/molecules.json").read_text())
    assert [row["asked"] for row in shown["asked for logp"]] == [f"<logp:{n}>" for n in (0, 1, 2, 3)]
    assert re.search(r'src="data:image/png', (output / "report/report.html").read_text())


def test_draw_alone_draws_what_is_asked_for(molecules):
    _, output, _ = molecules
    command = [sys.executable, "draw.py", "--ask", "<qed:4>", "--count", "3"]
    done = subprocess.run(command, cwd=output / "export", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 3 and "<" not in done.stdout


@pytest.mark.parametrize(
    ("recipe", "content", "said"),
    [
        ("music", {"a.mid": b"MThd"}, "a.mid: "),
        ("music", {"a.txt": b""}, "no piece in"),
        ("molecules", {"m.csv": b"smiles\nCCO\nC1CC\n"}, "RDKit refuses the SMILES"),
        ("molecules", {"m.csv": b"name\nCCO\n"}, "smiles_column"),
    ],
)
def test_bad_data_is_refused_with_the_way_out(recipe, content, said, tmp_path):
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    file = {"music": "recipes/music/bach.yaml", "molecules": "recipes/molecules/moses.yaml"}[recipe]
    source = {"music": "folder", "molecules": "csv"}[recipe]
    place = tmp_path if recipe == "music" else tmp_path / "m.csv"
    done = headwater(
        "run", file, f"data.source={source}", f"data.path={place}", f"run.output_dir={tmp_path / 'run'}"
    )
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
    assert not list((tmp_path / "run").glob("*/artifact.json")) and ROOT.is_dir()
