"""Catches a language model that does not learn what its rows say, or learns otherwise when compiled or recomputed."""

import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.lm.recipe import decoder_layers
from tests.tiny_language_model import ARCHITECTURES, VOCABULARY, tiny_model, trained

CHECKPOINTING = "ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"  # transformers 5.23
COMPILING = "ignore:.*torch.jit.script_method.*:DeprecationWarning"  # torch 2.13, of its own import
SMALL_NATS = 0.05


def documents() -> list[list[int]]:
    """Six that can be known from their first tokens: those differ, and no token comes twice in a document."""
    random = np.random.default_rng(0)
    bodies = [9 + random.permutation(VOCABULARY - 9)[:length] for length in (9, 12, 7, 15, 10, 5)]
    return [[3 + index, *body.tolist()] for index, body in enumerate(bodies)]


def continued(model: nn.Module, first: int, length: int) -> list[int]:
    """Greedy, by plain forwards: no packing, no mask, no cache."""
    ids = [first]
    with torch.no_grad():
        while len(ids) < length:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids


def entropy_of_targets() -> float:
    """In nats: the least loss of a model that does not see its input."""
    counts = Counter(token for document in documents() for token in document[1:])
    return math.log(counts.total()) - sum(n * math.log(n) for n in counts.values()) / counts.total()


def test_the_small_loss_cannot_be_reached_without_reading():
    assert entropy_of_targets() > 50 * SMALL_NATS


@pytest.mark.filterwarnings(COMPILING)
@pytest.mark.parametrize("optim", ["adamw", "muon"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fixed_batch_is_memorised_and_continued_by_heart(tmp_path, architecture, optim):
    trainer, figures = trained(
        tmp_path,
        documents(),
        lambda: tiny_model(architecture, 32, scale=0.02),
        optim=optim,
        max_grad_norm=0.0 if optim == "muon" else 1.0,
        max_steps=120,
        train_batch_size=3,
        bf16=True,
    )
    assert trainer.recipe.train.length == 3
    assert figures[0][0] == pytest.approx(math.log(VOCABULARY), abs=0.1)
    assert figures[-1][0] < SMALL_NATS  # measured: 0.001, and 0.011 with GPT-2's dropout
    model = trainer.nets()["model"].model.eval()
    for document in documents():
        assert continued(model, document[0], len(document)) == document


@pytest.mark.filterwarnings(CHECKPOINTING)
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recomputing_activations_changes_no_bit(tmp_path, architecture, bf16):
    """GPT-2 has dropout, which must be drawn again as it was."""
    plain, recomputed = (
        run(tmp_path / str(on), architecture, bf16=bf16, gradient_checkpointing=on) for on in (False, True)
    )
    assert recomputed.figures == plain.figures
    asked = 2 * 2  # whether documents meet: two forwards before the first step
    assert (plain.layer_calls, recomputed.layer_calls) == (asked + 6 * 2, asked + 2 * 6 * 2)


class Seen(NamedTuple):
    figures: list[tuple[float, float]]  # (loss, gradient norm) of each step
    layer_calls: int


def run(directory: Path, architecture: str, **training: Any) -> Seen:
    """Six steps, and how often they ran the body of a layer."""
    directory.mkdir()
    model, calls = tiny_model(architecture, 32), []
    for layer in decoder_layers(model):
        layer.mlp.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    return Seen(trained(directory, documents(), lambda: model, **training)[1], len(calls))


@pytest.mark.filterwarnings(
    COMPILING, "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)
def test_compiled_layers_train_as_they_do_uncompiled(tmp_path):
    """Up to half a minute where nothing is cached: the slowest test of this file, and it needs a C++ compiler."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    seen = []
    for compiled in (False, True):
        (tmp_path / str(compiled)).mkdir()
        counters.clear()
        _, figures = trained(
            tmp_path / str(compiled), documents(), lambda: tiny_model("llama", 32), torch_compile=compiled
        )
        seen.append(np.array(figures))
    assert counters["stats"]["unique_graphs"] == 1  # the layers share one, and nothing is compiled again
    assert not counters["graph_break"]
    losses, norms = abs(seen[1] / seen[0] - 1).max(axis=0)
    assert losses < 1e-6  # measured 2.5e-7
    assert norms < 1e-5  # measured 7.5e-7, and 3.4e-6 from other weights; in bf16 3e-2
