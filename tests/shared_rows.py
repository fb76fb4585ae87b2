"""A program: tiny decoders trained on rows that neighbouring processes share; process 0 writes what it saw.

`python -m tests.shared_rows OUT`, under a launcher; without one the rows are whole, for the tests to compare with.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.data.packing import PackedConversations
from pipeline.lm.config import Finetune
from pipeline.lm.recipe import LanguageModel
from pipeline.lm.ulysses import sharing_of
from pipeline.run.stage import leave
from pipeline.train.engine import Runtime, start_runtime, stop_runtime
from pipeline.train.loop import Trainer, evaluate, steps
from tests.tiny_language_model import random_documents, shard_of, tiny_model

LENGTH, SHARE = 16, 2
DOCUMENTS = random_documents(9, 12, 7, 15, 10, 5, 16, 3, 8, 11, 6, 13)
CASES = {  # grouped queries and windows of 4; learned positions and tied weights; each attention backend
    "llama sdpa": ("llama", "sdpa", {}),
    "llama flash": ("llama", "flash", {}),
    "gpt2 flash": ("gpt2", "flash", {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}),
    "windows sdpa": (
        "qwen3",
        "sdpa",
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    ),
}


def case(
    runtime: Runtime, architecture: str, attention: str, fields: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Losses, norms and held-out loss of four steps of two micro-batches, and the weights after them."""
    training = Finetune(
        max_steps=4,
        train_batch_size=4,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        sequence_length=LENGTH,
        sequence_parallel_size=runtime.sequence_size,
        bf16=False,
        torch_compile=False,
    )
    rows = PackedConversations(shard_of(folder, DOCUMENTS), LENGTH, 0, "error")
    recipe = LanguageModel(
        training=training,
        build=lambda: tiny_model(architecture, LENGTH, attention, **fields),
        train=rows,
        held=rows,
        sequence_length=LENGTH,
        sharing=sharing_of(runtime),
    )
    trainer = Trainer(recipe, runtime)
    seen = []
    for info in steps(trainer):
        loss = info.sums["model/loss"]
        seen.append([loss.mean, loss.count, info.gradient_norms["model"]])
    held = evaluate(trainer, rows)["loss"]
    weights = {name: tensor.flatten().tolist() for name, tensor in trainer.weights("model").items()}
    return {"steps": seen, "held": [held.mean, held.count], "weights": weights}


def seen(runtime: Runtime) -> dict[str, Any]:
    found = {}
    for name, (architecture, attention, fields) in CASES.items():
        with TemporaryDirectory() as folder:
            found[name] = case(runtime, architecture, attention, fields, Path(folder))
    return found


def main() -> None:
    runtime = start_runtime(1, SHARE)
    found = seen(runtime)
    if runtime.is_main:
        Path(sys.argv[1]).write_text(json.dumps(found))
    stop_runtime()
    leave(0)


if __name__ == "__main__":
    main()
