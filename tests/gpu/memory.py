"""Memory that was planned against what the GPU's allocator gave out, for eight shapes."""

import gc
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.lm.config import Model, Pretrain
from pipeline.lm.model import build_config
from pipeline.lm.recipe import size_of
from pipeline.run.launch import Launch, find_launch_file
from pipeline.run.memory import memory
from tests.benchmarks.workload import Rows, new_model, our_trainer, training
from tests.gpu.check import Check, Place, Said, require

NEAR = 0.2  # share of the measured peak that a plan may be off by; the goal is 0.05


@dataclass(frozen=True)
class Shape:
    """A Llama, its rows, and how it is trained."""

    width: int
    layers: int
    rows: int
    length: int
    attention: str = "sdpa"
    bf16: bool = True
    checkpointing: bool = False
    optim: str = "adamw"
    vocabulary: int = 32_000


SHAPES = (
    Shape(512, 8, 8, 1024),
    Shape(512, 8, 8, 1024, bf16=False),
    Shape(512, 8, 8, 1024, attention="eager"),
    Shape(1024, 12, 8, 1024),
    Shape(1024, 12, 8, 1024, optim="muon"),
    Shape(1024, 12, 16, 1024, checkpointing=True),
    Shape(1024, 12, 2, 4096),
    Shape(2048, 8, 4, 2048),
)
SMALL = (Shape(64, 2, 2, 64, vocabulary=512), Shape(64, 2, 2, 64, bf16=False, vocabulary=512))


def planned_against_measured(place: Place) -> Said:
    """On the CPU, where nothing counts what is allocated, the plan alone."""
    shapes, off = [], 0.0
    for shape in place.size(SHAPES, SMALL):
        planned, measured = peak(shape, place)
        found = {"planned_gb": planned / 1e9, "measured_gb": measured / 1e9}
        if measured:
            off = max(off, abs(planned / measured - 1))
            found["ratio"] = round(planned / measured, 3)
        shapes.append({"shape": str(shape).removeprefix("Shape"), **found})
    return require(
        off < NEAR,
        "a plan is far from what was allocated",
        {"off_by_at_most": round(off, 3), "shapes": shapes},
    )


def peak(shape: Shape, place: Place) -> tuple[float, float]:
    """(bytes planned, bytes at the peak of two steps) of one shape."""
    settings, model = settings_of(shape), model_of(shape)
    config = build_config(model, shape.vocabulary, {}, shape.length)
    launch = Launch(find_launch_file(Path("one")), 1, None, {})
    planned = memory(
        size_of(config, settings, shape.length, None, launch, shape.attention), settings, launch
    ).total
    gc.collect()
    before = 0
    if not place.rehearsal:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    from pipeline.train.loop import steps

    trainer = our_trainer(settings, lambda: new_model(model, shape.vocabulary, shape.length), rows_of(shape))
    running = steps(trainer)
    next(running), next(running)
    running.close()
    return planned, 0 if place.rehearsal else torch.cuda.max_memory_allocated() - before


def settings_of(shape: Shape) -> Pretrain:
    return training(
        sequence_length=shape.length,
        train_batch_size=shape.rows,
        per_device_train_batch_size=shape.rows,
        bf16=shape.bf16,
        optim=shape.optim,
        gradient_checkpointing=shape.checkpointing,
        max_grad_norm=0.0 if shape.optim == "muon" else 1.0,
    )


def model_of(shape: Shape) -> Model:
    config = {
        "hidden_size": shape.width,
        "intermediate_size": 3 * shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.width // 64,
        "num_key_value_heads": shape.width // 64,
        "max_position_embeddings": shape.length,
    }
    return Model(architecture="llama", attention=shape.attention, config=config)


def rows_of(shape: Shape) -> Rows:
    return Rows(shape.vocabulary, shape.length)


CHECKS = [
    Check("memory", "planned memory against the allocator's peak, eight shapes", planned_against_measured)
]
