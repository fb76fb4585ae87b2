"""A process that imports what stages import, once, and forks one for each: a stage then begins at once.

A stage that is launched imports in each of its processes; of the others each took some 3 s to begin. Forks are as apart
as processes are: what one stage allocates, seeds or leaves behind, the next never sees. The process that forks
does nothing but import, so it has no threads; a GPU's driver does not survive a fork, so where there is one, and where
there is no Linux, every stage starts afresh.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from pipeline.run.supervise import forwarded

# Sent to the whole group by a terminal or a scheduler: for the stage, and for the parent, not for what is between.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Warm:
    """The parent's end. Leaving it ends the process; nothing that it forked is then running."""

    def __init__(self, environment: dict[str, str]):
        orders, replies = os.pipe(), os.pipe()
        ends = (orders[0], replies[1])
        command = [sys.executable, "-m", "pipeline.run.warm", *map(str, ends)]
        self.process = subprocess.Popen(command, env=environment, pass_fds=ends)
        for end in ends:
            os.close(end)
        self.orders, self.replies = os.fdopen(orders[1], "w"), os.fdopen(replies[0])

    def run(self, module: str, arguments: list[str], log: Path) -> tuple[int, bool]:
        """`python -m module *arguments`, as pipeline.run.supervise.run_process runs it."""
        order = {"module": module, "arguments": arguments, "log": str(log)}
        print(json.dumps(order), file=self.orders, flush=True)
        child = self._reply()["process"]
        return forwarded(lambda: self._reply()["code"], lambda number: os.kill(child, number))

    def _reply(self) -> dict[str, Any]:
        line = self.replies.readline()
        if not line:
            raise RuntimeError(f"the process that starts stages ended with code {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        self.orders.close()
        self.process.wait()
        self.replies.close()


def helps() -> bool:
    """Whether stages may be forked here."""
    import torch

    return sys.platform == "linux" and not torch.cuda.is_available()


def serve(orders: int, replies: int) -> None:
    """Import, then fork a stage for each order until there are no more."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    import torch  # noqa: F401
    from transformers import AutoModelForCausalLM, PreTrainedModel  # noqa: F401

    with os.fdopen(orders) as asked, os.fdopen(replies, "w") as told:
        for line in asked:
            order = json.loads(line)
            child = os.fork()
            if not child:
                _become(order, (asked.fileno(), told.fileno()))
            print(json.dumps({"process": child}), file=told, flush=True)
            _, status = os.waitpid(child, 0)
            print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), file=told, flush=True)


def _become(order: dict[str, Any], pipes: tuple[int, int]) -> None:
    """Be `python -m module *arguments` with its stderr in the log, and end as that would."""
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for pipe in pipes:
        os.close(pipe)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 2)
    sys.argv = [order["module"], *order["arguments"]]
    code = 0
    try:
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:]))
