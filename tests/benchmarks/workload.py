"""What the training benchmarks share: the workload, the parity gate, the race and the line they print.

A contestant is an iterator: each `next` trains one optimizer step and gives its loss, a mean in nats a target.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pipeline.lm.config import LanguageModelConfig, Model, Pretrain
from pipeline.lm.machine import fitted
from pipeline.run.config import load
from pipeline.run.provenance import commit

RECIPES = Path(__file__).parents[2] / "recipes" / "llm"
IGNORED = -100  # label of a position that has no target
VOCABULARY, LENGTH, ROWS = 8192, 256, 8

Contestants = dict[str, Iterator[float]]


class Rows:
    """Random rows of one document each, sample i a function of i; a document's last token has no target.

    Small tokens are the common ones, so that a loss falls within a few steps and the parity gate sees updates.
    """

    length = 1_000_000
    distinct = 1024

    def __init__(self, vocabulary: int = VOCABULARY, sequence_length: int = LENGTH) -> None:
        self.vocabulary, self.sequence_length = vocabulary, sequence_length

    @cached_property
    def tokens(self) -> np.ndarray:
        """uint16 [distinct, T], in memory: reading a row costs what it costs from a mapped shard."""
        uniform = np.random.default_rng(0).random((self.distinct, self.sequence_length))
        return (self.vocabulary * uniform**3).astype(np.uint16)

    def item(self, index: int) -> dict[str, np.ndarray]:
        tokens = self.tokens[index % self.distinct].astype(np.int64)
        return {
            "input_ids": tokens,
            "labels": np.append(tokens[1:], IGNORED),
            "document_ids": np.zeros(self.sequence_length, np.int32),
            "position_ids": np.arange(self.sequence_length),
        }


class PackedRows(Rows):
    """Rows of random tokens with documents of `mean` tokens on average."""

    def __init__(self, vocabulary: int, sequence_length: int, mean: int):
        super().__init__(vocabulary, sequence_length)
        self.mean = mean

    def item(self, index: int) -> dict[str, np.ndarray]:
        row, length = super().item(index), self.sequence_length
        begins = np.random.default_rng(index).random(length) < 1 / self.mean
        begins[0] = True
        ids = begins.cumsum() - 1
        return row | {
            "document_ids": ids.astype(np.int32),
            "position_ids": np.arange(length) - np.flatnonzero(begins)[ids],
        }


def on_the_cpu(threads: int) -> None:
    """Compute on this many threads and on no GPU, here and in processes started from here; before any computing."""
    torch.set_num_threads(threads)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # else ours would take the GPU that the peer leaves
    os.environ["DS_ACCELERATOR"] = "cpu"  # else DeepSpeed writes to stdout that it looked for others


def training(**changes) -> Pretrain:
    """AdamW in bf16 on the shared rows; `changes` are settings of Pretrain."""
    settings = dict(
        sequence_length=LENGTH,
        max_steps=1_000_000,
        train_batch_size=ROWS,
        per_device_train_batch_size=ROWS,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        adam_beta2=0.999,
        weight_decay=0.0,
        bf16=True,
        torch_compile=False,
    )
    return Pretrain(**(settings | changes))


def recipe(name: str) -> LanguageModelConfig:
    """recipes/llm/NAME.yaml with the kernels that fit this machine."""
    return fitted(load(LanguageModelConfig, RECIPES / f"{name}.yaml", []))


def small_llama() -> Model:
    """A decoder of 6.5 M parameters at a vocabulary of 8,192, what two CPU cores train in minutes."""
    config = {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "max_position_embeddings": 512,
    }
    return Model(architecture="llama", attention="eager", config=config)


def new_model(
    model: Model | None = None, vocabulary: int = VOCABULARY, positions: int = LENGTH, attention: str = ""
) -> nn.Module:
    """`model` (none: the small Llama) with the same weights at every call; attention: in place of its own.

    `auto` is what it is for training in bf16.
    """
    from pipeline.lm.attention import chosen
    from pipeline.lm.model import build_config, build_model

    model = model or small_llama()
    config = build_config(model, vocabulary, {}, positions)
    torch.manual_seed(0)
    return build_model(config, chosen(attention or model.attention, config, True, positions))


def our_trainer(settings: Pretrain, build: Callable[[], nn.Module], rows: Rows):
    """The loop's Trainer on this process, on the GPU where there is one."""
    from pipeline.lm.recipe import LanguageModel
    from pipeline.train.engine import start_runtime
    from pipeline.train.loop import Trainer

    language_model = LanguageModel(
        training=settings, build=build, train=rows, held=None, sequence_length=rows.sequence_length
    )
    return Trainer(language_model, start_runtime(torch.get_num_threads()))


def our_steps(trainer) -> Iterator[float]:
    """The loop's own generator as a contestant."""
    from pipeline.train.loop import steps

    return (info.sums["model/loss"].mean for info in steps(trainer))


def warm_up(contestants: Contestants, steps: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """The first losses of each contestant, and the seconds they took, compilation among them."""
    losses, seconds = {}, {}
    for name, contestant in contestants.items():
        started = time.perf_counter()
        losses[name] = [next(contestant) for _ in range(steps)]
        seconds[name] = round(time.perf_counter() - started, 1)
    return losses, seconds


def parity_gate(losses: dict[str, list[float]], tolerances: dict[str, float]) -> dict[str, float]:
    """The largest difference of each contestant's first losses from the first contestant's.

    tolerances: in nats, for every contestant but the first.

    Raises:
        SystemExit: one differs by more: they do not train the same, and their speeds are not compared.
    """
    reference, *others = losses
    gaps = {
        name: max(abs(a - b) for a, b in zip(losses[name], losses[reference], strict=True)) for name in others
    }
    for name, gap in gaps.items():
        if not gap <= tolerances[name]:
            raise SystemExit(
                f"refused: {name} and {reference} do not train the same: their losses differ by {gap:.3g} nats\n"
                f"accepted: {tolerances[name]:.3g}\n{name}: {losses[name]}\n{reference}: {losses[reference]}"
            )
    return gaps


def race(contestants: Contestants, tokens: int, steps: int, repeats: int) -> dict[str, list[float]]:
    """Tokens a second of each contestant, in turns A B A B ..., `repeats` samples of `steps` steps each.

    tokens: of one optimizer step.
    """

    def sample(contestant: Iterator[float]) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            next(contestant)
        return steps * tokens / (time.perf_counter() - started)

    runners = {name: lambda c=contestant: sample(c) for name, contestant in contestants.items()}
    return interleaved(runners, repeats)


def interleaved(runners: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Call each runner in turn, A B A B ..., `repeats` times; the figures each returned."""
    figures: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(repeats):
        for name, runner in runners.items():
            figures[name].append(runner())
    return figures


def ratio(figures: dict[str, list[float]], over: str, under: str) -> dict[str, float]:
    """The spread of `over` / `under`, each quotient of two samples taken one after the other."""
    return spread([a / b for a, b in zip(figures[over], figures[under], strict=True)])


def spread(figures: list[float]) -> dict[str, float]:
    """Median, quartiles, least and greatest, to four significant digits."""
    lower, median, upper = statistics.quantiles(figures, n=4, method="inclusive")
    found = {"median": median, "lower": lower, "upper": upper, "min": min(figures), "max": max(figures)}
    return {name: float(f"{figure:.4g}") for name, figure in found.items()}


def print_line(name: str, **figures) -> None:
    """One JSON line with what a number needs beside it: machine, threads, versions, commit."""
    machine = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "commit": commit(),
    }
    print(json.dumps({"benchmark": name, **figures, **machine}))
