"""What a person sees: our own lines. What libraries chatter goes to a log file, and errors say where it is."""

import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO, TypeVar

from pipeline.run.errors import Interrupted, UserError

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
    code = {UserError: 2, Interrupted: 3}.get(type(error), 1)
    text = "".join(traceback.format_exception(error)) if code == 1 else str(error)
    print(text if code == 1 else f"error: {text}", file=sys.stderr, flush=True)
    if logs is not None:
        try:
            (logs / f"{name}.error").write_text(f"{code}\n{text}")
        except OSError:
            return code
    return code
