"""Catches what comes after training and does not work on a real run: serving it, listing it, cleaning it, comparing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from pipeline.publish.serve import check_port, command_of
from pipeline.run import artifact
from tests.helpers import ROOT, free_port, refusal
from tests.whole.command import ENVIRONMENT, headwater


def posted(url, **body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


@pytest.fixture(scope="module")
def server(finished, tmp_path_factory):
    """The address of `headwater serve` on the finished run."""
    port, home = free_port(), tmp_path_factory.mktemp("home")
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "serve", str(finished[0]), "--port", str(port)],
        cwd=ROOT, env=os.environ | ENVIRONMENT | {"HF_HOME": str(home)}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said = process.stdout.readline()
    assert said.startswith(f"http://127.0.0.1:{port}/v1 serves ") and "by transformers serve" in said
    until = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            break
        except urllib.error.HTTPError:
            break  # it answers
        except OSError:
            assert process.poll() is None and time.monotonic() < until, process.stdout.read()
            time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/v1", str(finished[0] / "export")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)


def test_the_export_answers_over_http(server):
    address, directory = server
    asked = {"model": directory, "messages": [{"role": "user", "content": "what?"}], "max_tokens": 5}
    answer = json.loads(posted(f"{address}/chat/completions", **asked))
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert isinstance(answer["choices"][0]["message"]["content"], str)


def test_the_export_streams_over_http(server):
    address, directory = server
    asked = {"model": directory, "messages": [{"role": "user", "content": "what?"}], "max_tokens": 5, "stream": True}
    events = [line for line in posted(f"{address}/chat/completions", **asked).splitlines() if line]
    assert len(events) > 1 and all(line.startswith("data: ") for line in events)


def test_the_list_of_models_answers(server):
    with urllib.request.urlopen(f"{server[0]}/models", timeout=30) as answer:
        assert json.loads(answer.read())["object"] == "list"


def test_a_port_in_use_and_a_missing_server_are_said(tmp_path, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        told = refusal(check_port, "127.0.0.1", taken.getsockname()[1])
    assert "in use" in told and "way out: another --port" in told
    assert refusal(check_port, "127.0.0.1", 99999)
    monkeypatch.setattr("pipeline.publish.serve.NEEDED", ("no_such_package",))
    assert "pip install headwater[serve]" in refusal(command_of, tmp_path, "127.0.0.1", 1)


def test_runs_are_listed_with_their_state(copied):
    done = headwater("runs", str(copied.parent))
    assert done.code == 0, done.err
    head, line = done.out.splitlines()
    assert head.split() == ["run", "recipe", "stages", "size", "last", "scores"]
    assert line.split()[:3] == [str(copied), "llm", "8/8"] and "bits_per_byte/base" in line
    (copied / "pretrain" / "artifact.json").write_text("{}")
    assert "is damaged" in headwater("runs", str(copied.parent)).out
    assert headwater("runs", str(copied / "logs")).code == 2


def test_cleaning_shows_first_and_never_takes_what_something_is_made_from(copied):
    before = {path for path in copied.rglob("*")}
    shown = headwater("clean", str(copied))
    assert shown.code == 0 and "--yes removes it" in shown.out and "checkpoints/pretrain" in shown.out
    assert {path for path in copied.rglob("*")} == before
    gone = headwater("clean", str(copied), "--yes")
    assert gone.code == 0 and gone.out.rstrip().endswith("removed")
    assert not list((copied / "checkpoints").glob("*/step-*"))
    assert [link.stage for link in artifact.verify_chain(copied / "export")][-1] == "export"
    assert "nothing to remove" in headwater("clean", str(copied)).out


def test_a_run_is_compared_with_its_own_base(finished):
    output = finished[0]
    done = headwater("compare", str(output), str(output / "pretrain" / "model"))
    assert done.code == 0, done.err
    assert "tokenize/documents.held_out.jsonl" in done.out and f"differences to {output}" in done.out


def test_a_run_completes_a_file_of_prompts(finished, tmp_path):
    (tmp_path / "prompts.txt").write_text("def mean(values):\nimport os\n")
    out = tmp_path / "out.jsonl"
    words = ["generate", str(finished[0]), "--prompts", str(tmp_path / "prompts.txt"), "--out", str(out)]
    done = headwater(*words, "--max-new-tokens", "6")
    assert done.code == 0 and done.out == f"{out}: 2 completions made\n"
    assert headwater(*words, "--max-new-tokens", "6").out == f"{out}: all completions are there\n"
    assert headwater(*words, "--max-new-tokens", "7").code == 2
