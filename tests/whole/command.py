"""What tests of the whole command share: the quickstart in miniature, `headwater` as a process, what a folder holds."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from pipeline.__main__ import main
from tests.helpers import ROOT, outputs

RECIPE = "recipes/llm/quickstart.yaml"
TOKEN = "hf_aTokenThatNobodyMayEverWriteDown"
ENVIRONMENT = {"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
STAGES = ("tokenizer", "tokenize", "pretrain", "finetune", "evaluate", "generate", "export", "report")

# Every stage of the quickstart, on the first modules of the standard library and a model of two narrow layers.
MINIATURE = (
    "run.save_steps=5",
    "run.eval_steps=20",
    "run.eval_samples=8",
    "run.logging_steps=1",
    "corpus.max_documents=30",
    "tokenizer.vocabulary_size=512",
    "model.config.hidden_size=32",
    "model.config.intermediate_size=64",
    "model.config.num_hidden_layers=2",
    "model.config.num_attention_heads=2",
    "model.config.num_key_value_heads=1",
    "model.config.max_position_embeddings=128",
    "pretrain.sequence_length=64",
    "pretrain.max_steps=40",
    "pretrain.warmup_steps=2",
    "pretrain.decay_steps=10",
    "chat.max_conversations=200",
    "chat.held_out=0.3",
    "finetune.sequence_length=128",
    "finetune.max_steps=4",
    "finetune.warmup_steps=1",
    "evaluate.max_documents=2",
    "evaluate.functions=2",
    "evaluate.conversations=4",
    "evaluate.multiple_choice=4",
    "evaluate.bootstrap_samples=100",
    "generate.max_new_tokens=8",
)


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        return (self.out + self.err).splitlines()


def miniature(output: Path, *more: str) -> list[str]:
    """The recipe and the overrides that make it the miniature in `output`; later overrides win."""
    return [RECIPE, f"run.output_dir={output}", *MINIATURE, *more]


def headwater(*arguments: str, until: Callable[[], bool] | None = None, stop: int = 0) -> Done:
    """Run the command to its end; or, once `until` holds, send the signal `stop` and wait for it.

    SIGKILL goes to the whole process group, as a machine that is switched off would; other signals to the one
    process that was started.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while until and process.poll() is None:
        if until():
            os.killpg(process.pid, stop) if stop == signal.SIGKILL else process.send_signal(stop)
            break
        time.sleep(0.005)
    out, err = outputs(process, 240)
    return Done(process.returncode, out, err, time.perf_counter() - started)


def headwater_here(*arguments: str) -> Done:
    """The command in this process, whose libraries are loaded: for what ends before it starts another process."""
    out, err, started = io.StringIO(), io.StringIO(), time.perf_counter()
    before, place = dict(os.environ), Path.cwd()
    os.environ.update(ENVIRONMENT)
    os.chdir(ROOT)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(list(arguments))
    finally:
        os.chdir(place)
        os.environ.clear()
        os.environ.update(before)
    return Done(code, out.getvalue(), err.getvalue(), time.perf_counter() - started)


def run_miniature(output: Path, *more: str, **stopping) -> Done:
    return headwater("run", *miniature(output, *more), **stopping)


def decided(output: Path, *more: str) -> dict[str, str]:
    """Stage -> what `headwater run` would do."""
    done = headwater("status", *miniature(output, *more), "--json")
    assert done.code == 0, done.err
    return {row["stage"]: row["state"] for row in json.loads(done.out)}


def manifest(output: Path, stage: str) -> dict:
    return json.loads((output / stage / "artifact.json").read_text())


def listing(directory: Path) -> dict[str, tuple[int, int]]:
    """Path -> (size, time of change) of everything below a directory."""
    return {
        path.relative_to(directory).as_posix(): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
    }
