"""Every fault against every way of running: what a real `headwater` says, what it leaves, and how it goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pipeline.train import checkpoint
from tests.helpers import ROOT
from tests.whole.command import ENVIRONMENT, miniature

STEP, STEPS, EVERY = 6, 12, 4  # the fault comes in step 6 of 12; there are checkpoints of 4, 8 and 12
LAUNCHERS = {
    "one process": "one.yaml",
    "DDP": "cpu_ddp.yaml",
    "ZeRO-1": "zero1.yaml",
    "ZeRO-2": "cpu_zero2.yaml",
    "ZeRO-3": "cpu_zero3.yaml",
}
LIMIT_SECONDS = 120.0  # of one command; a hang is a failure
GONE_SECONDS = 45.0  # that processes may take to save and go once their command was killed
NO_SPACE, IO_ERROR, READ_ONLY = 28, 5, 30  # error numbers of Linux


@dataclass(frozen=True)
class Fault:
    """One thing that happens to a run.

    harm: of injected/sitecustomize.py, in one process at STEP, or in each step where it is `linger`; signals: sent from
    outside, two seconds and a half apart; to_group: as a terminal sends them, to the command and its launcher; shim:
    of shim.c, {rank} being the last process; codes: that the command may end with; says: one of these;
    memory: bytes of the cgroup that the run is in.
    """

    name: str
    codes: tuple[int, ...]
    says: tuple[str, ...]
    harm: str | None = None
    signals: tuple[signal.Signals, ...] = ()
    to_group: bool = False
    shim: str = ""
    clock: bool = False
    memory: int = 0
    overrides: tuple[str, ...] = ()


ALONE = {  # what cannot happen to a single process
    "kill the launcher": "it has none",
    "stop itself": "nobody is there to see it; SIGCONT goes on",
}
GONE = ("is gone", "was killed")
FAULTS = (
    Fault("SIGKILL of one process", (1,), GONE, "kill itself"),
    Fault("SIGKILL of one process that has not written its share", (1,), GONE, "kill itself, no share written"),
    Fault("SIGKILL of the launcher", (1,), GONE, "kill the launcher"),
    Fault("SIGKILL of all", (-9,), (), "kill all"),
    Fault("SIGKILL of the command", (-9,), (), "kill the command"),
    Fault("SIGTERM", (3,), ("stopped on request",), "linger", (signal.SIGTERM,)),
    Fault("SIGUSR1", (3,), ("stopped on request",), "linger", (signal.SIGUSR1,)),
    Fault("SIGHUP", (3,), ("stopped on request",), "linger", (signal.SIGHUP,)),
    Fault("SIGINT", (3,), ("stopped on request",), "linger", (signal.SIGINT,), to_group=True),
    Fault(
        "SIGINT twice, in a step that does not end",
        (3,),
        ("stopped",),
        "stand still",
        (signal.SIGINT,) * 2,
        True,
    ),
    Fault(
        "SIGTERM twice, in a step that does not end", (3,), ("stopped",), "stand still", (signal.SIGTERM,) * 2
    ),
    Fault("SIGSTOP of one process", (1,), ("no step for",), "stop itself", overrides=("run.timeout=8",)),
    Fault("an exception in one process", (1,), ("a harm that one process comes to",), "fail"),
    Fault(
        "no space for a share",
        (2,),
        ("No space left",),
        shim=f"write {NO_SPACE} .step-00000008/tensors-0000{{rank}}",
    ),
    Fault(
        "no space for the manifest", (2,), ("No space left",), shim=f"write {NO_SPACE} .step-00000008/.manifest"
    ),
    Fault(
        "EIO of fsync",
        (2,),
        ("Input/output error",),
        shim=f"fsync {IO_ERROR} .step-00000008/tensors-0000{{rank}}",
    ),
    Fault("a read-only file system", (2,), ("Read-only file system",), shim=f"mkdir {READ_ONLY} .step-00000008"),
    Fault("no space for the log", (2,), ("No space left",), shim=f"write {NO_SPACE} .metrics.jsonl"),
    Fault("out of memory, in a cgroup", (1,), GONE, "fill memory", memory=3 << 30),
    Fault("the clock set back", (0,), (), clock=True),
)


@dataclass(frozen=True)
class Work:
    """A stage to train, and what it needs: `prepare` makes the run that it goes on from."""

    name: str
    stage: str
    recipe: Callable[[Path], list[str]]
    prepare: tuple[str, ...]

    def command(self, verb: str, stage: str, output: Path, launcher: str, *more: str) -> list[str]:
        lengths = (f"{self.stage}.max_steps={STEPS}", f"run.save_steps={EVERY}", "run.save_total_limit=9")
        given = [*self.recipe(output), f"run.launch=launch/{LAUNCHERS[launcher]}", *lengths, *more]
        return [sys.executable, "-m", "pipeline", verb, *([stage] if verb == "stage" else []), *given]


def _ring(output: Path) -> list[str]:
    return ["recipes/gan/ring.yaml", f"run.output_dir={output}", "run.logging_steps=1", "train.train_batch_size=16",
            "train.per_device_train_batch_size=8"]  # fmt: skip


WORKS = {
    "pretrain": Work("pretrain", "pretrain", lambda out: miniature(out, "pretrain.warmup_steps=0.1",
                     "pretrain.decay_steps=0.5"), ("tokenizer", "tokenize")),
    "LoRA": Work("LoRA", "finetune", miniature, ("tokenizer", "tokenize", "pretrain")),
    "GAN": Work("GAN", "train", _ring, ()),
}  # fmt: skip


@dataclass
class Outcome:
    """What a fault did: how the command ended, what it said, what was left, and whether the same command mended it."""

    fault: str
    launcher: str
    work: str
    code: int | None = None
    said: str = ""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)
    skipped: str = ""


def shim(folder: Path) -> Path:
    """shim.c as a library."""
    made = folder / "shim.so"
    if not made.exists():
        source = str(ROOT / "tests" / "faults" / "shim.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(made), source, "-ldl"], check=True)
    return made


def prepared(folder: Path, work: Work) -> Path:
    """A run with all that the stage of `work` is made from."""
    output = folder / "prepared" / work.name
    for stage in work.prepare:
        if not (output / stage).exists():
            command = [sys.executable, "-m", "pipeline", "stage", stage, *work.recipe(output)]
            done = subprocess.run(
                command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
    output.mkdir(parents=True, exist_ok=True)
    return output


def reference(folder: Path, work: Work, launcher: str) -> Path:
    """The run that nothing happens to."""
    output = folder / "uninterrupted" / f"{work.name} {launcher}"
    if not output.exists():
        shutil.copytree(prepared(folder, work), output)
        code, text, _ = run(work.command("stage", work.stage, output, launcher), {}, None, None)
        assert code == 0, text
    return output


def suffer(folder: Path, fault: Fault, work: Work, launcher: str) -> Outcome:
    """Let `fault` happen to a run, give the same command again, and compare with the run that nothing happened to."""
    outcome = Outcome(fault.name, launcher, work.name)
    whole, output = reference(folder, work, launcher), folder / "harmed"
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(prepared(folder, work), output)
    command = work.command("stage", work.stage, output, launcher)
    rank = 0 if launcher == "one process" else 1
    if launcher == "one process" and fault.harm in ALONE:
        outcome.skipped = ALONE[fault.harm]
        return outcome
    with _memory(fault.memory) as (enter, why):
        if why:
            outcome.skipped = why
            return outcome
        environment = environment_of(folder, fault, rank, output / "logs" / f"{work.stage}.metrics.jsonl")
        code, text, seconds = run([*command, *fault.overrides], environment, fault, enter)
    outcome.code, outcome.seconds = code, seconds
    outcome.said = next(
        (line for line in text.splitlines() if line.startswith("error") or "stopped" in line), ""
    )
    if code not in fault.codes:
        outcome.wrong.append(f"ended with {code}, not {' or '.join(map(str, fault.codes))}: {text[-1500:]}")
    if fault.says and not any(words in text for words in fault.says):
        outcome.wrong.append(f"did not say {fault.says!r}: {text[-1500:]}")
    if code == 2 and len([line for line in text.splitlines() if line.strip()]) > 6:
        outcome.wrong.append(f"said more than five lines: {text[-1500:]}")
    if code != 0:
        code, text, _ = run(command, {}, None, None)
        if code:
            outcome.wrong.append(f"the same command again ended with {code}: {text[-1500:]}")
            return outcome
    outcome.wrong += differences(output, whole, work.stage)
    return outcome


def differences(output: Path, whole: Path, stage: str) -> list[str]:
    """What a mended run has that the uninterrupted one has not, and the other way."""
    made, expected = (json.loads((each / stage / "artifact.json").read_text()) for each in (output, whole))
    found = [] if made["files"] == expected["files"] else ["other weights than uninterrupted"]
    here, there = (_names(each) for each in (output, whole))
    # A run that is asked to stop saves where it is: what verifies is no stray.
    for made in checkpoint.published(output / "checkpoints" / stage):
        name = made.relative_to(output).as_posix()
        if name not in there and checkpoint.damage(made) is None:
            here = {each for each in here if not each.startswith(name)}
    return (
        found
        + [f"left behind: {name}" for name in sorted(here - there)]
        + [f"lacks {name}" for name in sorted(there - here)]
    )


def _names(output: Path) -> set[str]:
    """Everything but logs, the command's own record of its overrides, and Python's caches."""
    names = {path.relative_to(output).as_posix() for path in output.rglob("*")}
    return {name for name in names if not name.startswith("logs")}


def environment_of(
    folder: Path, fault: Fault, rank: int, begun: Path, step: int = STEP
) -> dict[str, str]:
    """What makes `fault` happen to process `rank`. begun: the file that is there once training has begun."""
    given = {}
    if fault.harm:
        given["FAULT"] = json.dumps({"step": step, "rank": rank, "harm": fault.harm})
        given["PYTHONPATH"] = f"{ROOT / 'tests' / 'faults' / 'injected'}:{ROOT}"
    if fault.shim:
        given |= {"LD_PRELOAD": str(shim(folder)), "SHIM_FAIL": fault.shim.format(rank=rank)}
    if fault.clock:
        given |= {"LD_PRELOAD": str(shim(folder)), "SHIM_CLOCK": str(begun)}
    return given


def run(
    command: list[str], environment: dict[str, str], fault: Fault | None, enter: Callable[[], None] | None
) -> tuple[int | None, str, float]:
    """(exit code, what was printed, seconds until the command ended); waits until all that it started is gone.

    Raises:
        AssertionError: something stays.
    """
    marker = uuid.uuid4().hex
    started = time.monotonic()
    environment = os.environ | ENVIRONMENT | environment | {"FAULT_MARKER": marker}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, preexec_fn=lambda: _begin(enter),
    )  # fmt: skip
    if fault and fault.signals:
        _send(
            fault,
            process,
            next(word for word in command if word.startswith("run.output_dir=")).partition("=")[2],
        )
    try:
        text, _ = process.communicate(timeout=LIMIT_SECONDS)
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        code, text = None, f"no end after {LIMIT_SECONDS:g} s"
    seconds = time.monotonic() - started
    left, patience = _marked(marker), time.monotonic() + (GONE_SECONDS if code is not None else 0)
    while left and time.monotonic() < patience:
        time.sleep(0.1)
        left = _marked(marker)
    for each in left:
        each.kill()
    if code is None:
        text += process.communicate()[0]
    elif left:
        text += f"\nprocesses stayed: {[' '.join(each.cmdline()[-6:]) for each in left]}"
        code = None
    return code, text, seconds


def _begin(enter: Callable[[], None] | None) -> None:
    for number in (signal.SIGHUP, signal.SIGINT):  # ignored where these tests run below nohup, or behind a shell's &
        signal.signal(number, signal.SIG_DFL)
    if enter:
        enter()


def _send(fault: Fault, process: subprocess.Popen, output: str) -> None:
    """The fault's signals, once a step has been logged."""
    patience = time.monotonic() + LIMIT_SECONDS
    # A step that does not end is never logged: the one before it is.
    wanted = STEP - 1 if fault.harm == "stand still" else 2
    while process.poll() is None and time.monotonic() < patience and _logged(Path(output)) < wanted:
        time.sleep(0.02)
    for number in fault.signals:
        time.sleep(0.5)
        if process.poll() is None:
            os.killpg(process.pid, number) if fault.to_group else process.send_signal(number)
        if len(fault.signals) > 1:
            time.sleep(2.5)


def _logged(output: Path) -> int:
    return max((len(log.read_text().splitlines()) for log in output.glob("logs/*.metrics.jsonl")), default=0)


def _marked(marker: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FAULT_MARKER") == marker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@contextmanager
def _memory(limit: int) -> Iterator[tuple[Callable[[], None] | None, str]]:
    """(what puts a new process into a cgroup of `limit` bytes, why there is none)."""
    if not limit:
        yield None, ""
        return
    first = Path("/sys/fs/cgroup/memory")  # of version 1
    root, name = (
        (first, "memory.limit_in_bytes") if first.is_dir() else (Path("/sys/fs/cgroup"), "memory.max")
    )
    group = root / f"headwater-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
        (group / name).write_text(str(limit))
    except OSError as error:
        if group.exists():
            group.rmdir()
        yield None, f"no cgroup can be made here: {os.strerror(error.errno or 0)}"
        return

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    try:
        yield enter, ""
    finally:
        group.rmdir()
