"""A program: two steps of the toy under whatever launched it; process 0 writes what it saw to OUT."""

import json
import sys
from pathlib import Path

from pipeline.run.stage import leave
from pipeline.train.engine import start_runtime, stop_runtime
from pipeline.train.loop import Trainer, steps
from tests.helpers import Toy, toy_training


def main(out: Path) -> None:
    runtime = start_runtime(threads=1)
    trainer = Trainer(Toy(toy_training(max_steps=2)), runtime)
    losses = [info.sums["model/loss"].mean for info in steps(trainer)]
    if runtime.is_main:
        seen = {"launcher": runtime.describe(), "offload": runtime.offload_param, "losses": losses}
        out.write_text(json.dumps(seen))
    stop_runtime()
    leave(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
