"""What a person sees: our own lines. What libraries chatter goes to a log file, and errors say where it is."""

import errno
import os
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO, TypeVar

from pipeline.run.errors import Interrupted, UserError
from pipeline.run.supervise import lost_peers

OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG)
CAUSE_SECONDS = 3.0  # that the process which failed first has to say why

T = TypeVar("T")


def divert(log: Path) -> TextIO:
    """Send this process's stdout and stderr, C++ libraries' included, to `log`; return the terminal for our own lines.

    Processes beside process 0 get a log of their own and a terminal that swallows everything.
    """
    rank = int(os.environ.get("RANK", "0"))
    log = log if rank == 0 else log.with_suffix(f".rank{rank}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.fdopen(os.dup(1), "w", buffering=1) if rank == 0 else open(os.devnull, "w")
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    return terminal


def bar(items: Iterable[T], words: str, terminal: TextIO, total: int | None = None) -> Iterable[T]:
    """The items, with a bar of how many went by where `terminal` is one; it goes away with the last of them."""
    from tqdm import tqdm

    return tqdm(items, words, total, leave=False, file=terminal, disable=not terminal.isatty())


def report_error(error: Exception, logs: Path | None, name: str) -> int:
    """Leave the error where the launching command finds it; return 2 (the user's), 3 (stopped on request) 1 (ours)."""
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        error = UserError(
            f"{os.strerror(error.errno)}: {error.filename or 'a file of this run'}\n"
            "way out: make room or mend it; the same command goes on from what is whole"
        )
    code = {UserError: 2, Interrupted: 3}.get(type(error), 1)
    if code == 1 and logs is not None and (lost := lost_peers(error)):
        with open(logs / f"{name}.log", "a") as log:
            log.writelines(traceback.format_exception(error))
        return _report_lost(lost, logs / f"{name}.error")
    text = "".join(traceback.format_exception(error)) if code == 1 else str(error)
    print(text if code == 1 else f"error: {text}", file=sys.stderr, flush=True)
    if logs is not None:
        leave_word(logs / f"{name}.error", code, text)
    return code


def _report_lost(lost: str, word: Path) -> int:
    """Leave the cause to the process that has it, where it can still speak; else say which one is gone."""
    patience = time.monotonic() + CAUSE_SECONDS
    while not word.is_file() and time.monotonic() < patience:
        time.sleep(0.1)
    print(f"error: {lost}", file=sys.stderr, flush=True)
    leave_word(word, 1, lost)
    return 1


def leave_word(word: Path, code: int, text: str) -> bool:
    """Write the file that tells the launching command why a stage ended; False where another process has: the first
    of them knows the cause, the others its consequences."""
    try:
        with open(word, "x") as file:
            file.write(f"{code}\n{text}")
    except OSError:
        return False
    return True
