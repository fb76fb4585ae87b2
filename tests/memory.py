"""A program: `python -m tests.memory ROWS,ATTENTION,PRECISION[,BASE] ...` prints the peak in bytes of each process.

BASE: adapters on a base that is stored so, plain, nf4 or int8; without it every weight is trained.

Each is a fork of this process that trains two steps: imports are paid for once, and a fork's peak begins at what is
resident as it is made. To be run with MALLOC_MMAP_THRESHOLD_ small, so that memory a tensor leaves is the system's
again at once, and on one thread, which a fork needs.
"""

import json
import sys
from itertools import islice
from multiprocessing import get_context

from pipeline.lm.config import Lora
from pipeline.lm.tuning.lora import add_adapters
from pipeline.lm.tuning.quantised import quantise
from pipeline.run.provenance import peak_memory_bytes
from pipeline.train.loop import steps
from tests.benchmarks.workload import Rows, new_model, on_the_cpu, our_trainer, training


def peak(rows: int, attention: str, precision: str, base: str = "") -> int:
    """The peak of this process after two steps, the second of which has the optimizer state of `rows` rows."""
    bf16 = precision == "bf16"
    settings = training(train_batch_size=rows, per_device_train_batch_size=rows, bf16=bf16)
    lora = lora_of(base)

    def built():
        net = new_model(attention=attention)
        if lora is None:
            return net
        return add_adapters(quantise(net, lora) if lora.quantisation else net, lora)

    trainer = our_trainer(settings, built, Rows())
    assert sum(1 for _ in islice(steps(trainer), 2)) == 2
    return peak_memory_bytes()


def lora_of(base: str) -> Lora | None:
    """The adapters of a case."""
    return Lora(r=8, lora_alpha=16, quantisation=None if base == "plain" else base) if base else None


def main(*cases: str) -> None:
    on_the_cpu(1)
    peaks = {}
    for case in cases:
        rows, *others = case.split(",")
        with get_context("fork").Pool(1) as process:
            peaks[case] = process.apply(peak, (int(rows), *others))
    print(json.dumps(peaks))


if __name__ == "__main__":
    main(*sys.argv[1:])
