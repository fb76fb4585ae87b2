"""Training tokens a second on a CPU: our loop over transformers' Trainer, and over a bare fp32 GPT's loop.

python -m tests.benchmarks.cpu_training      one JSON line; a ratio above 1 means that ours is faster

One process on two threads, the same rows in the same batches, AdamW, clipping at 1. Two races:
llama: the quickstart's model, 16 rows of 256 in micro-batches of 8, as its recipe cuts them on one process; AdamW in
    place of Muon, which the Trainer lacks. Ours isolates documents and reads each step's loss; the peer does not.
gpt: the shape of nanoGPT's CPU command for character-level Shakespeare, 4 layers, 4 heads, 128 wide, 12 rows of 64, no
    dropout. Ours is transformers' GPT-2; the peer is bare_gpt.py, the same arithmetic in fp32 without compilation.
"""

from collections.abc import Iterator
from typing import Any

import torch

from pipeline.lm.config import Model, Pretrain
from tests.benchmarks import bare_gpt, hf_trainer
from tests.benchmarks.workload import (
    Contestants,
    Rows,
    new_model,
    on_the_cpu,
    our_steps,
    our_trainer,
    parity_gate,
    print_line,
    race,
    ratio,
    small_llama,
    spread,
    training,
    warm_up,
)

THREADS, GATED, REPEATS = 2, 4, 5
# Nats, over the first GATED losses. Worst seen: 5.4e-7 and 4.3e-4. Targets one position too far make 2.9e-3 or more on
# the llama and 1.1e-2 on the gpt, a learning rate a tenth too high 6e-3 or more.
FP32_TOLERANCE, BF16_TOLERANCE = 2e-6, 1e-3


def ours(model: Model, rows: Rows, settings: Pretrain) -> Iterator[float]:
    """Our loop on `model`, built anew with the weights that every contestant starts from."""
    return our_steps(
        our_trainer(settings, lambda: new_model(model, rows.vocabulary, rows.sequence_length), rows)
    )


def llama_contestants(
    model: Model, rows: Rows, settings: Pretrain, compiled: bool = True
) -> tuple[Contestants, dict[str, float]]:
    """The Trainer as it comes, the Trainer with what its documentation offers on a CPU, and ours; the tolerances.

    compiled: also both of them compiled. The first, which the gate compares with, is fp32.
    """
    tuned = {"bf16": True, "optim": "adamw_torch_fused", "dataloader_num_workers": 0, "logging_steps": 1000}
    plain = model.model_copy(update={"attention": "sdpa"})  # what transformers takes unless told

    def trainer(**levers: Any) -> Iterator[float]:
        job = hf_trainer.Job(plain, rows, settings, levers, torch.get_num_threads(), GATED)
        return hf_trainer.contestant(job)

    contestants = {
        "trainer": trainer(),
        "trainer_tuned": trainer(**tuned),
        "ours": ours(model, rows, settings),
    }
    if compiled:
        contestants["trainer_tuned_compiled"] = trainer(**tuned, torch_compile=True)
        faster = settings.model_copy(update={"torch_compile": True})
        contestants["ours_compiled"] = ours(model, rows, faster)
    return contestants, {name: BF16_TOLERANCE for name in contestants}


def gpt_shape(layers: int = 4, heads: int = 4, width: int = 128) -> Model:
    """GPT-2 without dropout and with the exact GELU; eager attention, which rows of 64 want on a CPU."""
    off = dict(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, activation_function="gelu")
    shape = dict(n_layer=layers, n_head=heads, n_embd=width)
    return Model(architecture="gpt2", attention="eager", config=shape | off)


def gpt_contestants(
    model: Model, rows: Rows, settings: Pretrain, compiled: bool = True
) -> tuple[Contestants, dict[str, float]]:
    """The bare GPT, ours in its precision and ours in bf16; the tolerances. compiled: also ours compiled."""
    start = new_model(model, rows.vocabulary, rows.sequence_length)
    fp32 = settings.model_copy(update={"bf16": False})
    contestants = {
        "bare_fp32": bare_gpt.contestant(bare_gpt.like(start), rows, settings),
        "ours_fp32": ours(model, rows, fp32),
        "ours_bf16": ours(model, rows, settings),
    }
    tolerances = {"ours_fp32": FP32_TOLERANCE, "ours_bf16": BF16_TOLERANCE}
    for name, precision in {"fp32": fp32, "bf16": settings}.items() if compiled else ():
        faster = precision.model_copy(update={"torch_compile": True})
        contestants[f"ours_{name}_compiled"] = ours(model, rows, faster)
        tolerances[f"ours_{name}_compiled"] = tolerances[f"ours_{name}"]
    return contestants, tolerances


def compare(
    contestants: Contestants, tolerances: dict[str, float], settings: Pretrain, steps: int, repeats: int
) -> dict:
    """Gate, race, and the quotients of ours and every peer; a peer's name does not begin with `ours`."""
    try:
        losses, seconds = warm_up(contestants, GATED)
        gaps = parity_gate(losses, tolerances)
        tokens = settings.train_batch_size * settings.sequence_length
        figures = race(contestants, tokens, steps, repeats)
    finally:
        for contestant in contestants.values():
            contestant.close()
    mine = [name for name in figures if name.startswith("ours")]
    peers = [name for name in figures if name not in mine]
    return {
        "ratios": {f"{a} / {b}": ratio(figures, a, b) for a in mine for b in peers},
        "tokens_per_second": {name: spread(found) for name, found in figures.items()},
        "loss_differences": gaps,
        "warm_up_seconds": seconds,
        "protocol": f"{tokens} tokens a step, {steps} steps a sample, {repeats} samples in turns",
    }


def main() -> None:
    on_the_cpu(THREADS)
    settings = training(train_batch_size=16)
    llama = compare(*llama_contestants(small_llama(), Rows(), settings), settings, steps=2, repeats=REPEATS)
    small = training(sequence_length=64, train_batch_size=12, per_device_train_batch_size=12)
    gpt = compare(*gpt_contestants(gpt_shape(), Rows(65, 64), small), small, steps=30, repeats=REPEATS)
    print_line("cpu_training", llama=llama, gpt=gpt, unit="our tokens/s over the peer's")


if __name__ == "__main__":
    main()
