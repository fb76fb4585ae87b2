"""Watches a training process from a thread of its own: a step that never ends, a second request to stop.

A process that waits in a collective for one that is stopped or gone elsewhere waits in C, where neither signal
handlers nor exceptions of Python reach it; a thread does.
"""

import faulthandler
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.run.supervise import SECOND_SECONDS, peers
from pipeline.run.terminal import leave_word

POLL_SECONDS = 0.5
STACKS_SECONDS = 3.0  # that the other processes of a host have to write theirs
STOPPED_SECONDS = 5.0  # between two looks of this thread: the process itself was stopped, by Ctrl-Z, and goes on
URGENT = (
    signal.SIGTERM,
    signal.SIGINT,
)  # asked again, they mean: at once; SIGUSR1 is a notice, however often


class Watch:
    """Within, a process that shows no sign of life for `seconds` writes its stacks to stderr, says so in `word`, and
    ends with the others of its host; and one that is asked to stop a second time ends at once.

    word: the stage's error file; say: where a person looks; last: names the last checkpoint.
    """

    def __init__(self, seconds: float, word: Path, say: Callable[[str], object], last: Callable[[], str]):
        self.seconds, self.word, self.say, self.last = seconds, word, say, last
        self._step, self._seen = 0, time.monotonic()
        self._asked: dict[int, float] = {}
        self._done = False

    def seen(self, step: int) -> None:
        """A sign of life, in or after `step`."""
        self._step, self._seen = step, time.monotonic()

    def __enter__(self) -> "Watch":
        self._signals, written = os.pipe()
        os.set_blocking(written, False)
        self._written, self._before = written, signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        self._seen = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done = True
        signal.set_wakeup_fd(self._before)
        os.write(self._written, b"\0")
        self._thread.join()
        os.close(self._written)
        os.close(self._signals)

    def _run(self) -> None:
        looked = time.monotonic()
        while not self._done:
            ready, _, _ = select.select([self._signals], [], [], POLL_SECONDS)
            if ready:
                for number in os.read(self._signals, 64):
                    self._heard(number)
            before, looked = looked, time.monotonic()
            if looked - before > STOPPED_SECONDS:
                self._seen = looked
            if looked - self._seen > self.seconds and not self._done:
                self._hung()

    def _heard(self, number: int) -> None:
        now = time.monotonic()
        if number in URGENT and now - self._asked.setdefault(number, now) > SECOND_SECONDS:
            self._end(3, f"ended at once, asked a second time; {self.last()}")

    def _hung(self) -> None:
        sys.stderr.write(f"no sign of life for {self.seconds:g} s: the stacks of this process\n")
        sys.stderr.flush()
        faulthandler.dump_traceback(file=2)
        time.sleep(STACKS_SECONDS)
        others = peers()
        stopped = [f"process {rank} is stopped" for rank, process in others if process.status() == "stopped"]
        self._end(
            1,
            f"no step for {self.seconds:g} s after step {self._step}{': ' if stopped else ''}{', '.join(stopped)}\n"
            f"the stacks of every process are in {self.word.with_suffix('')}*.log; {self.last()}\n"
            "way out: run.timeout=SECONDS, if a step or a batch of the evaluation may take longer",
        )

    def _end(self, code: int, text: str) -> None:
        if leave_word(self.word, code, text):
            self.say(text.split("\n")[0] + "\n")
        if code == 1:
            for _, process in peers():
                process.kill()
        os._exit(code)
