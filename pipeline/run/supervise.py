"""The processes of a stage: a request to stop goes on to them, none outlives its launcher, none runs beside another."""

import ctypes
import errno
import fcntl
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json

TIMES, FAILURES = 3, "failures.json"  # how often a stage may fail in one way, and where that is counted
SECOND_SECONDS = 2.0  # apart, two requests to stop are two: one Ctrl-C reaches a process by several ways
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
# Gloo's and NCCL's words for a neighbour that left (torch 2.13).
LOST = re.compile(
    r"gloo/transport|[Cc]onnection (closed|reset) by|Broken pipe|Socket (Timeout|closed)|"
    r"NCCL.*(remote process|abort|time)"
)
NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)  # some network file systems


def run_process(command: list[str], log: Path, environment: dict[str, str]) -> tuple[int, bool]:
    """Run `command` with its stderr in `log`; its exit code, and whether it was asked to stop.

    Where this process is killed, the command is asked to stop: it saves.
    """
    with open(log, "w") as errors:
        process = subprocess.Popen(
            command, stderr=errors, env=environment, preexec_fn=lambda: follow_parent(signal.SIGTERM)
        )
    return forwarded(process.wait, process.send_signal)


def forwarded(wait: Callable[[], int], send: Callable[[int], object]) -> tuple[int, bool]:
    """What `wait` gives, a process's exit code, and whether that was asked to stop meanwhile.

    SIGTERM, SIGHUP and SIGUSR1 (Slurm's notice) are passed on. Ctrl-C is not: the terminal sends it to every process.
    Asked to stop a second time, SIGKILL: a launcher's processes follow it.
    """
    asked: dict[int, float] = {}

    def note(number: int) -> bool:
        """Whether it is asked for the second time."""
        now = time.monotonic()
        return now - asked.setdefault(number, now) > SECOND_SECONDS and number != signal.SIGUSR1

    def pass_on(number: int, frame: object) -> None:
        send(signal.SIGKILL if note(number) else number)

    before = {number: signal.signal(number, pass_on) for number in heeded() if number != signal.SIGINT}
    try:
        while True:
            try:
                return wait(), bool(asked)
            except KeyboardInterrupt:
                if note(signal.SIGINT):
                    send(signal.SIGKILL)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def heeded() -> list[signal.Signals]:
    """The signals that ask a run to save and stop. A hang-up is not one below `nohup`."""
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
    return numbers if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [*numbers, signal.SIGHUP]


def follow_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process `number` when its parent dies. Linux only: no other kernel offers it.

    torchrun gives each worker a session of its own, so SIGKILL to the launcher's group misses them: they would train
    on, and write into the run that the next command resumes.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, number)


def give_up(checkpoints: Path, said: str, code: int) -> int:
    """The exit code of a training stage that ended with `code`: 2, which no scheduler repeats, and a line why, where it
    is the third time that it failed in the same words without coming to another checkpoint. The next three count anew.
    """
    tally = checkpoints / FAILURES
    if code != 1 or not checkpoints.is_dir():
        return code
    last = max((path.name for path in checkpoints.glob("step-*")), default="the beginning")
    now = {"from": last, "said": said}
    before = json.loads(tally.read_text()) if tally.is_file() else []
    same = [*(before if before and before[-1] == now else []), now]
    if len(same) < TIMES:
        write_json(tally, same)
        return code
    tally.unlink()
    print(
        f"error: {TIMES} attempts from {last} ended in the same way: another one will, too, until something is changed",
        file=sys.stderr,
    )
    return 2


def peers() -> list[tuple[int, Any]]:
    """(rank, psutil's process) of the other training processes that this one's launcher has on this host."""
    import psutil

    if "RANK" not in os.environ:
        return []
    found = []
    for child in psutil.Process(os.getppid()).children():
        try:
            theirs = child.environ()
        except psutil.Error:  # it has ended
            continue
        if child.pid != os.getpid() and theirs.get("MASTER_PORT") == os.environ["MASTER_PORT"]:
            found.append((int(theirs.get("RANK", -1)), child))
    return sorted(found, key=lambda pair: pair[0])


def gone() -> list[int]:
    """Ranks of this host whose process has ended."""
    if "RANK" not in os.environ:
        return []
    there = {rank for rank, _ in peers()} | {int(os.environ["RANK"])}
    first = int(os.environ["RANK"]) - int(os.environ.get("LOCAL_RANK", 0))
    local = range(first, first + int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    return [rank for rank in local if rank not in there]


def lost_peers(error: BaseException) -> str | None:
    """What to say where `error` is a collective's, about a process that is no longer there; None: it is another."""
    chain: BaseException | None = error
    while chain is not None and not (isinstance(chain, RuntimeError) and LOST.search(str(chain))):
        chain = chain.__cause__ or chain.__context__
    if chain is None or "RANK" not in os.environ:
        return None
    left = gone()
    who = (
        f"process {' and '.join(map(str, left))} of this host"
        if left
        else "a process on another host, or the way there,"
    )
    return (
        f"{who} is gone: killed, out of memory, or cut off; the same command goes on from the last checkpoint"
    )


@contextmanager
def claim(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`, which the kernel frees when this process ends, however it ends.

    Raises:
        UserError: a process that still runs holds it; it is named.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"{what} is being made by {lock.read().strip() or 'another process'}\n"
                "way out: wait for it, or stop it, or take another run.output_dir"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            print(f"warning: {path.parent} has no locks; nothing keeps two runs apart", file=sys.stderr)
        lock.truncate(0)
        print(f"process {os.getpid()} on {platform.node()}", file=lock, flush=True)
        yield
