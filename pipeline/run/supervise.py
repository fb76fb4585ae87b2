"""The processes of a stage: a request to stop goes on to them, none outlives its launcher, none runs beside another."""

import ctypes
import errno
import fcntl
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.run.errors import UserError

PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)  # some network file systems


def run_process(command: list[str], log: Path, environment: dict[str, str]) -> tuple[int, bool]:
    """Run `command` with its stderr in `log`; its exit code, and whether it was asked to stop."""
    with open(log, "w") as errors:
        process = subprocess.Popen(command, stderr=errors, env=environment)
    return forwarded(process.wait, process.send_signal)


def forwarded(wait: Callable[[], int], send: Callable[[int], object]) -> tuple[int, bool]:
    """What `wait` gives, a process's exit code, and whether that was asked to stop meanwhile.

    SIGTERM and SIGUSR1 (Slurm's notice) are passed on. Ctrl-C is not: the terminal sends it to every process.
    """
    asked: list[int] = []

    def pass_on(number: int, frame: object) -> None:
        asked.append(number)
        send(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        while True:
            try:
                return wait(), bool(asked)
            except KeyboardInterrupt:
                asked.append(signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow_launcher() -> None:
    """Have the kernel end this process when its launcher dies. Linux only: no other kernel offers it.

    torchrun gives each worker a session of its own, so SIGKILL to the launcher's group misses them: they would train
    on, and write into the run that the next command resumes.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


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
