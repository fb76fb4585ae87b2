"""Read by every Python process that has this folder on its path: does FAULT's harm in one training process, once.

FAULT: JSON of {"step", "rank", "harm"}; harm: of HARMS, at that step, or `linger`: each step takes `seconds` longer.
Nothing of the product knows of it.
"""

import json
import os
import signal
import sys
import time


def _all_of_this_run() -> list:
    import psutil

    marker, found = os.environ["FAULT_MARKER"], []
    for process in psutil.process_iter():
        try:
            if process.environ().get("FAULT_MARKER") == marker and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:
            continue
    return found


def _kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_all() -> None:
    for process in sorted(_all_of_this_run(), key=lambda each: each.pid):
        process.kill()
    _kill_itself()


def _kill_the_command() -> None:
    min(_all_of_this_run(), key=lambda each: each.create_time()).kill()


def _fail() -> None:
    raise ValueError("a harm that one process comes to")


def _fill_memory() -> None:
    held = []
    while True:
        held.append(bytearray(os.urandom(1 << 20)) * 16)


def _stand_still() -> None:
    time.sleep(3600)


HARMS = {
    "kill itself": _kill_itself,
    "kill itself, no share written": _kill_itself,
    "kill the launcher": lambda: (os.kill(os.getppid(), signal.SIGKILL), time.sleep(3600)),
    "kill all": _kill_all,
    "kill the command": _kill_the_command,
    "stop itself": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "stand still": _stand_still,
    "fail": _fail,
    "fill memory": _fill_memory,
}


def _arm(fault: dict) -> None:
    from pipeline.train import checkpoint, fit

    after = fit._after
    if fault["harm"] == "kill itself, no share written":
        checkpoint.write_tensors = lambda path, share: time.sleep(3600)

    def harmed(info, *rest):
        if fault["harm"] == "linger":
            time.sleep(fault.get("seconds", 0.2))
        elif info.step == fault["step"]:
            print(f"harm: {fault['harm']}", file=sys.stderr, flush=True)
            HARMS[fault["harm"]]()
        return after(info, *rest)

    fit._after = harmed


def _trains() -> bool:
    """Whether this is a training process: one of a launcher's, or a stage that needs none."""
    module = sys.orig_argv[sys.orig_argv.index("-m") + 1] if "-m" in sys.orig_argv else ""
    alone = module.startswith(("pipeline.", "recipes.")) and module != "pipeline.run.warm"
    return "RANK" in os.environ or alone


if "FAULT" in os.environ and _trains():
    given = json.loads(os.environ["FAULT"])
    if int(os.environ.get("RANK", 0)) == given["rank"]:
        _arm(given)
