"""Catches batches out of order, a thread that outlives its run or runs away, and a failure that comes late or bare."""

import threading
import traceback

import pytest
import torch

from pipeline.train.engine import Runtime
from pipeline.train.feed import ahead
from pipeline.train.loop import Trainer, evaluate, steps
from tests.helpers import Toy, toy_training

CPU = torch.device("cpu")
ALONE = Runtime(rank=0, world_size=1, device=CPU, zero_stage=None)


def feeders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


class Unreadable(Exception):
    """What a worn-out disk would say."""


class Failing:
    """A split whose sample number `bad` cannot be read."""

    def __init__(self, split, bad: int):
        self.split, self.bad, self.length = split, bad, split.length

    def item(self, index: int):
        if index == self.bad:
            raise Unreadable(f"sample {index}")
        return self.split.item(index)


def test_what_is_prepared_comes_in_order_and_all_of_it():
    assert list(ahead(lambda number: number * number, range(3, 9), CPU)) == [9, 16, 25, 36, 49, 64]
    assert list(ahead(lambda number: number, range(0), CPU)) == []


def test_the_next_is_prepared_while_one_is_in_use_and_no_more():
    begun = {number: threading.Event() for number in range(5)}

    def prepare(number: int) -> int:
        begun[number].set()
        return number

    feed = ahead(prepare, range(5), CPU)
    assert next(feed) == 0
    assert begun[1].wait(10)
    feed.close()
    assert [event.is_set() for event in begun.values()] == [True, True, False, False, False]


def test_a_failure_comes_in_its_turn_with_its_own_traceback():
    def read(number: int) -> int:
        if number == 2:
            raise Unreadable("sample 2")
        return number

    feed = ahead(read, range(4), CPU)
    assert [next(feed), next(feed)] == [0, 1]
    with pytest.raises(Unreadable, match="sample 2") as caught:
        next(feed)
    assert "read" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert not feeders()


def test_closing_the_feed_ends_its_thread():
    feed = ahead(lambda number: number, range(100), CPU)
    next(feed)
    assert feeders()
    feed.close()
    assert not feeders()


def test_training_does_every_step_before_the_sample_that_cannot_be_read():
    recipe = Toy(toy_training())
    size, split = recipe.training.train_batch_size, recipe.data()
    recipe.data = lambda: Failing(split, bad=2 * size)
    done = []
    with pytest.raises(Unreadable, match=f"sample {2 * size}"):
        for info in steps(Trainer(recipe, ALONE)):
            done.append(info.step)
    assert done == [1, 2] and not feeders()


def test_held_out_samples_that_cannot_be_read_fail_their_evaluation():
    recipe = Toy(toy_training())
    trainer = Trainer(recipe, ALONE)
    with pytest.raises(Unreadable, match="sample 1"):
        evaluate(trainer, Failing(recipe.held_out(), bad=1))
    assert not feeders()


def test_a_step_says_how_long_it_stood_still_for_its_data():
    slow, read = threading.Event(), Toy.data

    class Slow(Failing):
        def item(self, index: int):
            slow.wait(0.01)
            return self.split.item(index)

    recipe = Toy(toy_training())
    recipe.data = lambda: Slow(read(recipe), bad=-1)
    first = next(steps(Trainer(recipe, ALONE)))
    assert first.waited >= 0.01 * recipe.training.train_batch_size


@pytest.mark.parametrize(("device", "gpu"), [("cuda", 1), ("cuda:0", 0), ("cuda:3", 3)])
def test_the_thread_works_on_the_gpu_of_its_run(monkeypatch, device, gpu):
    """Catches a device without an index, which one process without a launcher has, and memory taken from GPU 0."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert list(ahead(lambda number: number, range(2), torch.device(device))) == [0, 1]
    assert chosen == [gpu]
