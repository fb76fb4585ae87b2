"""Catches data elsewhere that are other rows than the same files here, that are met late, or known by a secret."""

import gzip
import json
import os
import subprocess
import sys

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from pipeline.data import sources
from pipeline.data.config import Corpus
from pipeline.run import outside
from pipeline.run.errors import UserError
from tests.faults.malformed import TREE, good
from tests.helpers import ROOT, free_port
from tests.whole.command import headwater

TEXTS = [f"document {number} says no more than this. " * 8 for number in range(30)]


def files() -> dict[str, bytes]:
    """One folder of each kind of file, squeezed and not."""
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), sink)
    return {
        "rows/a.jsonl": lines,
        "rows/b.jsonl.gz": gzip.compress(lines, mtime=0),
        "rows/deep/c.parquet": sink.getvalue().to_pybytes(),
        "rows/d.csv": b"text\n" + "".join(f'"{text}"\n' for text in TEXTS).encode(),
        "rows/e.bin": b"no table",
        "texts/x.txt": TEXTS[0].encode(),
        "texts/deep/y.txt": b"\xef\xbb\xbf" + TEXTS[1].encode(),
    }


@pytest.fixture
def memory(tmp_path):
    """The same files in fsspec's memory and in a folder."""
    store = fsspec.filesystem("memory")
    for name, content in files().items():
        store.pipe(f"/store/{name}", content)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    yield tmp_path
    store.rm("/store", recursive=True)


PATHS = {"tables": ("auto", "rows"), "a glob": ("jsonl", "rows/*.jsonl*"), "texts": ("text", "texts")}
PATHS |= {"one file": ("parquet", "rows/deep/c.parquet"), "squeezed": ("auto", "rows/b.jsonl.gz")}


@pytest.mark.parametrize(("source", "path"), PATHS.values(), ids=PATHS)
def test_rows_elsewhere_are_those_of_the_same_files_here(memory, source, path):
    here, there = (Corpus(source=source, path=f"{place}/{path}") for place in (memory, "memory://store"))
    sources.check_corpus(there)
    expected = list(sources.documents(here, []))
    assert expected and list(sources.documents(there, [])) == expected
    assert sources.outside_files(here).keys() == sources.outside_files(there).keys()
    assert sources.fingerprint(here)["bytes"] == sources.fingerprint(there)["bytes"]


def test_a_change_is_seen_by_what_the_store_tells_without_reading(memory, monkeypatch):
    corpus = Corpus(source="jsonl", path="memory://store/rows/a.jsonl")
    record = memory / "inputs.json"
    outside.keep(record, outside.snapshot(sources.outside_files(corpus)))
    assert outside.judge(record, lambda: sources.outside_files(corpus)).action == "up to date"
    store = fsspec.filesystem("memory")
    store.pipe("/store/rows/a.jsonl", files()["rows/a.jsonl"].replace(b"more", b"less"))
    monkeypatch.setattr(type(store), "open", None)
    found = outside.judge(record, lambda: sources.outside_files(corpus))
    assert (found.action, found.reason) == ("conflict", "changed since: a.jsonl")


REFUSED = {
    "nothing there": ({"path": "memory://store/none"}, "nothing at memory://store/none"),
    "no such file in it": (
        {"path": "memory://store/texts"},
        "corpus: no file matches .* in memory://store/texts",
    ),
    "no such store": ({"path": "nope://a/b"}, "a URL that fsspec reads"),
    "a store without its package": ({"path": "gs://a/b"}, "its package: s3fs, gcsfs"),
    "a password": ({"path": "s3://me:secret@store/rows"}, "has a name or password in it"),
    "files of this machine": ({"path": "memory://store/rows", "source": "dictd"}, "read from files here"),
}


@pytest.mark.parametrize(("fields", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_refused_by_its_setting(memory, fields, said):
    with pytest.raises(UserError, match=said) as refused:
        sources.check_corpus(Corpus(**{"source": "jsonl"} | fields))
    assert str(refused.value).startswith("corpus") and "secret" not in str(refused.value)


ANSWERS = {
    "403": (PermissionError("Forbidden"), "no permission to read .*: Forbidden\nway out: credentials"),
    "503": (
        OSError("503 Slow Down"),
        "did not answer: OSError: 503 Slow Down\nway out: the same command again",
    ),
    "nothing": (TimeoutError("timed out"), "did not answer: TimeoutError"),
}


@pytest.mark.parametrize("source", ["jsonl", "text"])
@pytest.mark.parametrize(("answer", "said"), ANSWERS.values(), ids=ANSWERS)
def test_a_store_that_refuses_or_does_not_answer_is_no_traceback(memory, monkeypatch, answer, said, source):
    corpus = Corpus(
        source=source, path="memory://store/" + ("rows/a.jsonl" if source == "jsonl" else "texts")
    )

    def refuse(*given, **named):
        raise answer

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "_open", refuse)
    with pytest.raises(UserError, match=said):
        list(sources.documents(corpus, []))


@pytest.fixture(scope="module")
def s3():
    """The environment of a store that speaks S3's protocol, on loopback, with the files in bucket `store`."""
    port = free_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "a-key",
        "AWS_SECRET_ACCESS_KEY": "aSecretThatNobodyMayWriteDown",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    serve = f"from moto.server import main; main(['-p', '{port}'])"
    server = subprocess.Popen(
        [sys.executable, "-c", serve], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    fill = (
        "import sys, json, time, base64, boto3\n"
        "client = boto3.client('s3')\n"
        "for attempt in range(100):\n"
        "    try:\n"
        "        client.create_bucket(Bucket='store'); break\n"
        "    except Exception: time.sleep(0.2)\n"
        "for name, content in json.load(sys.stdin).items():\n"
        "    client.put_object(Bucket='store', Key=name, Body=base64.b64decode(content))\n"
    )
    import base64

    given = json.dumps({name: base64.b64encode(content).decode() for name, content in files().items()})
    subprocess.run(
        [sys.executable, "-c", fill],
        input=given,
        text=True,
        env=os.environ | environment,
        check=True,
        timeout=60,
    )
    yield environment
    server.terminate()
    server.wait()


def test_a_recipe_reads_a_bucket_and_keeps_no_secret(s3, tmp_path, monkeypatch):
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    corpus = {"source": "auto", "path": "s3://store/rows", "held_out": 0.3}
    arguments = good(tmp_path, TREE | {"corpus": corpus})
    for stage in ("tokenizer", "tokenize"):
        done = headwater("stage", stage, *arguments)
        assert done.code == 0, done.err
    made = json.loads((tmp_path / "run" / "tokenize" / "artifact.json").read_text())
    assert made["metrics"]["corpus"]["files"] == 4
    assert made["metrics"]["documents.train.documents"] + made["metrics"]["documents.held_out.documents"] > 60
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or b"aSecretThatNobody" not in path.read_bytes(), path
    again = headwater("run", *arguments, "--dry-run")
    assert "tokenize     up to date" in again.out, again.out
    gone = headwater("plan", *arguments, "corpus.path=s3://elsewhere/rows")
    assert gone.code == 2 and "corpus.path" in gone.err and "Traceback" not in gone.err, gone.err
