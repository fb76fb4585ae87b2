"""Batches a step ahead: a thread prepares the next step's micro-batches while the device computes this one's.

Order is the samples' own, a function of their indices: what runs when changes nothing of what is learnt.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from pipeline.run.plan import Batches
from pipeline.train.engine import Runtime
from pipeline.train.recipe import Batch, Recipe, Split

Prepared = TypeVar("Prepared")


def ahead(
    prepare: Callable[[int], Prepared], numbers: Iterable[int], device: torch.device
) -> Iterator[Prepared]:
    """`prepare(number)` of each number in turn, made by a thread, one ahead of what was asked for.

    An exception of `prepare` is raised where its own result is asked for, with its own traceback: the steps before
    it are done and can be saved. Closing the iterator ends the thread after at most one `prepare`.
    """

    # A new thread starts on GPU 0, and pinning there would take memory from it. One process without a launcher has
    # a device without an index: the GPU that this thread is on.
    gpu = torch.cuda.current_device() if device.type == "cuda" and device.index is None else device.index

    def on_device() -> None:
        if device.type == "cuda":
            torch.cuda.set_device(gpu)

    with ThreadPoolExecutor(1, thread_name_prefix="feed", initializer=on_device) as thread:
        coming = None
        for number in numbers:
            # What is ready is taken before the next is begun: two are held at most, not three.
            ready = coming.result() if coming else None
            last, coming = coming, thread.submit(prepare, number)
            if last:
                yield ready
        if coming:
            yield coming.result()


def micro_batches(
    recipe: Recipe, data: Split, batches: Batches, runtime: Runtime, step: int, step_samples: int
) -> list[tuple[int, Batch]]:
    """This process's (global micro-batch number, batch) pairs: micro-batch g of a step holds samples g * micro onwards.

    Processes take turns, so that N processes and one process that accumulates N times see the same micro-batches; those
    that share their rows see the same ones.
    """
    pairs = []
    for accumulated in range(batches.accumulation):
        number = accumulated * runtime.data_size + runtime.data_rank
        first = step * step_samples + number * batches.micro
        indices = range(first, first + batches.micro)
        pairs.append((number, collated(recipe, data, indices, runtime.device)))
    return pairs


def collated(recipe: Recipe, data: Split, indices: Iterable[int], device: torch.device) -> Batch:
    """The samples of `indices` as one batch on the CPU; pinned for a GPU, so that copying it there blocks nothing."""
    batch = recipe.collate([data.item(index) for index in indices])
    return {name: value.pin_memory() for name, value in batch.items()} if device.type == "cuda" else batch


def on(device: torch.device, batch: Batch) -> Batch:
    """`batch` on the device, copied while the processor goes on."""
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
