"""A program: `python -m tests.memory ROWS ATTENTION BF16` trains three steps and prints this process's peak in bytes.

To be run with MALLOC_MMAP_THRESHOLD_ small, so that memory a tensor leaves is the system's again at once.
"""

import json
import sys
from itertools import islice

from pipeline.run.provenance import peak_memory_bytes
from tests.benchmarks.workload import Rows, new_model, on_the_cpu, our_trainer, training


def main(rows: int, attention: str, bf16: bool) -> None:
    from pipeline.train.loop import steps

    on_the_cpu(1)
    settings = training(train_batch_size=rows, per_device_train_batch_size=rows, bf16=bf16)
    trainer = our_trainer(settings, lambda: new_model(attention=attention), Rows())
    assert sum(1 for _ in islice(steps(trainer), 3)) == 3
    print(json.dumps(peak_memory_bytes()))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "bf16")
