"""The one workload that the training benchmarks share: a small Llama, packed random rows, fixed seeds."""

import json
import platform
import statistics
from collections.abc import Callable

import numpy as np
import torch

from pipeline.lm_config import Model, Pretrain
from pipeline.provenance import commit

VOCABULARY, LENGTH, ROWS = 8192, 256, 8


class Rows:
    """Random rows of one document each, sample i a function of i."""

    length = 1_000_000

    def item(self, index: int) -> dict[str, np.ndarray]:
        tokens = np.random.default_rng(index).integers(0, VOCABULARY, LENGTH + 1)
        return {
            "input_ids": tokens[:-1],
            "labels": tokens[1:],
            "document_ids": np.zeros(LENGTH, np.int32),
            "position_ids": np.arange(LENGTH),
        }


def training(**changes) -> Pretrain:
    """AdamW on the shared rows; `changes` are settings of Pretrain."""
    settings = dict(
        sequence_length=LENGTH,
        max_steps=1_000_000,
        train_batch_size=ROWS,
        per_device_train_batch_size=ROWS,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        adam_beta2=0.999,
        weight_decay=0.0,
    )
    return Pretrain(**(settings | changes))


def small_llama() -> Model:
    """6.5 M parameters, the quickstart's shape."""
    shape = dict(
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    return Model(architecture="llama", config=shape)


def new_model() -> torch.nn.Module:
    """The shared model with the same weights at every call."""
    from pipeline.model import build_config, build_model

    torch.manual_seed(0)
    return build_model(build_config(small_llama(), VOCABULARY, {}, LENGTH), "sdpa")


def interleaved(runners: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Call each runner in turn, A B A B ..., `repeats` times; the figures each returned."""
    figures: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(repeats):
        for name, runner in runners.items():
            figures[name].append(runner())
    return figures


def spread(figures: list[float]) -> dict[str, float]:
    return {"median": statistics.median(figures), "min": min(figures), "max": max(figures)}


def print_line(name: str, **figures) -> None:
    """One JSON line with what a number needs beside it: machine, threads, versions, commit."""
    machine = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "commit": commit(),
    }
    print(json.dumps({"benchmark": name, **figures, **machine}))
