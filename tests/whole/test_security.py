"""Catches code of strangers that runs, a secret written down, a file that fills memory: see .github/SECURITY.md."""

import io
import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import sources
from pipeline.data.chat import ChatEncoder
from pipeline.lm.directory import check_directory, check_safetensors
from pipeline.lm.model import load_model, load_tokenizer
from pipeline.lm.prompts import chat_prompt
from pipeline.run.errors import UserError
from pipeline.run.stage import open_recipe
from recipes.common import npm
from tests.faults.malformed import TREE, base, good
from tests.helpers import ROOT, refusal
from tests.whole.command import ENVIRONMENT, TOKEN

SOURCES = [path for room in ("pipeline", "recipes", "tokenizer") for path in (ROOT / room).rglob("*.py")]
OWN_EXPORTS = {
    "recipes/diffusion/exported.py",
    "recipes/design/exported.py",
    "recipes/text_to_image/exported.py",
}


class Canary:
    """A pickle that leaves a file when it is read."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return os.system, (f"touch {self.place}",)


def named(pattern: str) -> set[str]:
    return {p.relative_to(ROOT).as_posix() for p in SOURCES if re.search(pattern, p.read_text())}


def test_no_source_asks_for_foreign_code_or_reads_a_pickle():
    assert named(r"trust_remote_code\s*=\s*True") == OWN_EXPORTS  # their pipeline file is ours, and verified
    assert (
        named(r"import pickle|pickle\.load|allow_pickle=True|torch\.load\((?!.*weights_only=True)") == set()
    )
    assert named(r"yaml\.(load\((?!.*_Loader)|unsafe_load|full_load)") == set()
    assert named(r"\.extractall\(|shell=True|os\.system\(|(?<![\w.])eval\(") == set()


def _weights(directory, canary):
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(canary)))


def _optimizer(directory, canary):
    (directory / "optimizer.pt").write_bytes(pickle.dumps(Canary(canary)))
    (directory / "training_args.bin").write_bytes(pickle.dumps(Canary(canary)))


def _architecture(directory, canary):
    config = json.loads((directory / "config.json").read_text())
    code = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (directory / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": code}))
    (directory / "own.py").write_text(f"open({str(canary)!r}, 'w')\n")


def _known_architecture(directory, canary):
    config = json.loads((directory / "config.json").read_text())
    code = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (directory / "config.json").write_text(json.dumps(config | {"auto_map": code}))
    (directory / "own.py").write_text(f"open({str(canary)!r}, 'w')\n")


def _tokenizer(directory, canary):
    config = json.loads((directory / "tokenizer_config.json").read_text())
    code = {"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}
    (directory / "tokenizer_config.json").write_text(json.dumps(config | {"auto_map": code}))
    (directory / "own.py").write_text(f"open({str(canary)!r}, 'w')\n")


def _template(directory, canary):
    attack = "{{ cycler.__init__.__globals__.os.system('touch " + str(canary) + "') }}"
    (directory / "chat_template.jinja").write_text(attack)


HOSTILE = {
    "weights in a pickle": (_weights, "a pickle, which may run any code and is not read"),
    "a pickled optimizer beside the weights": (_optimizer, ""),
    "an architecture of its own": (_architecture, "brings code of its own"),
    "code beside a known architecture": (_known_architecture, ""),
    "a tokenizer of its own": (_tokenizer, ""),
    "a template that calls the system": (_template, ""),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_that_a_model_brings_runs(kind, tmp_path):
    """What every stage loads a model by: what transformers can do without is done without, the rest refused."""
    harm, refused = HOSTILE[kind]
    canary, directory = tmp_path / "canary", tmp_path / "base"
    base(lambda directory: harm(directory, canary))(tmp_path)
    said = refusal(check_directory, directory)
    assert refused in said if refused else said is None
    with suppress(UserError):
        load_model(directory)
    with suppress(UserError):
        chat_prompt(ChatEncoder(load_tokenizer(directory)), [{"role": "user", "content": "a"}])
    assert not canary.exists()


@pytest.mark.parametrize("name", ["a.npy", "script.py", "a.pkl"])
def test_a_folder_of_data_runs_nothing(tmp_path, name):
    canary = tmp_path / "canary"
    folder = tmp_path / "script"
    folder.mkdir()
    if name == "a.npy":
        np.save(folder / name, np.array([Canary(canary)], dtype=object), allow_pickle=True)
    elif name == "a.pkl":
        (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    else:
        (folder / name).write_text(f"import datasets\nopen({str(canary)!r}, 'w')\n")
    arguments = good(
        tmp_path, TREE | {"corpus": {"source": "datasets", "path": str(folder), "held_out": 0.3}}
    )
    config, _ = open_recipe(Path(arguments[0]), [])
    with pytest.raises(UserError, match="cannot load split"):
        list(sources.documents(config.corpus, []))
    assert not canary.exists()


def test_a_token_of_the_environment_is_nowhere_in_what_a_run_leaves(finished):
    """The miniature ran with one: logs, artifacts, card, report, recipes."""
    output, done = finished
    token = TOKEN.encode()
    assert token.decode() not in done.out + done.err
    holding = [path for path in output.rglob("*") if path.is_file() and token in path.read_bytes()]
    assert holding == []


MEMORY = """
import resource, sys
from pathlib import Path
from pipeline.lm.directory import check_directory
from pipeline.run.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    check_directory(Path(sys.argv[1]))
except UserError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_of_a_gigabyte_is_refused_in_bounded_memory(tmp_path, name):
    arguments = base(lambda directory: os.truncate(directory / name, 1 << 30))(tmp_path)
    assert arguments
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "base")],
        cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, *_, kilobytes = done.stdout.splitlines()
    assert name in said and int(kilobytes) < 300_000  # transformers' own import is most of it


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        (1 << 62).to_bytes(8, "little") + b"{}",
        (10).to_bytes(8, "little") + b"{",
        (2).to_bytes(8, "little") + b"[]",
        (50_000).to_bytes(8, "little") + b"[" * 50_000,
        (57).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,9999]}}',
        (17).to_bytes(8, "little") + b'{"a":"no tensor"}',
    ],
)
def test_a_header_that_lies_is_damage(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    said = refusal(check_safetensors, tmp_path / "a.safetensors")
    assert said and "a.safetensors" in said


def test_an_archive_stays_within_its_folder(tmp_path):
    """Names that lead out, links and devices are left behind; what is inside comes."""
    file, out = tmp_path / "a.tgz", tmp_path / "root"
    with tarfile.open(file, "w:gz") as archive:
        for name in ("package/in.txt", "../out.txt", "/tmp/headwater-out.txt", "package/../../out.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 2
            archive.addfile(entry, io.BytesIO(b"ok"))
        for name, kind, target in (
            ("package/link", tarfile.SYMTYPE, "/etc/passwd"),
            ("package/hard", tarfile.LNKTYPE, "package/in.txt"),
            ("package/device", tarfile.CHRTYPE, ""),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    npm._unpack(file, out.resolve())
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [
        "a.tgz",
        "root/package/in.txt",
    ]
    assert not Path("/tmp/headwater-out.txt").exists()


def test_an_index_that_leads_out_of_its_directory_is_refused(tmp_path):
    def point_outside(directory):
        (directory / "model.safetensors").rename(tmp_path / "secret.safetensors")
        index = {"weight_map": {"a": "../secret.safetensors"}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))

    base(point_outside)(tmp_path)
    with pytest.raises(UserError, match="names no files of its own directory"):
        check_directory(tmp_path / "base")
