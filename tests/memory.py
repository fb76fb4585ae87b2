"""A program: `python -m tests.memory ROWS,ATTENTION,PRECISION ...` prints the peak in bytes of a process for each.

Each is a fork of this process that trains two steps: imports are paid for once, and a fork's peak begins at what is
resident as it is made. To be run with MALLOC_MMAP_THRESHOLD_ small, so that memory a tensor leaves is the system's
again at once, and on one thread, which a fork needs.
"""

import json
import sys
from itertools import islice
from multiprocessing import get_context

from pipeline.run.provenance import peak_memory_bytes
from pipeline.train.loop import steps
from tests.benchmarks.workload import Rows, new_model, on_the_cpu, our_trainer, training


def peak(rows: int, attention: str, precision: str) -> int:
    """The peak of this process after two steps, the second of which has the optimizer state of `rows` rows."""
    bf16 = precision == "bf16"
    settings = training(train_batch_size=rows, per_device_train_batch_size=rows, bf16=bf16)
    trainer = our_trainer(settings, lambda: new_model(attention=attention), Rows())
    assert sum(1 for _ in islice(steps(trainer), 2)) == 2
    return peak_memory_bytes()


def main(*cases: str) -> None:
    on_the_cpu(1)
    peaks = {}
    for case in cases:
        rows, attention, precision = case.split(",")
        with get_context("fork").Pool(1) as process:
            peaks[case] = process.apply(peak, (int(rows), attention, precision))
    print(json.dumps(peaks))


if __name__ == "__main__":
    main(*sys.argv[1:])
