"""Our loop over a bare PyTorch loop, one process: the same model, rows, optimizer, clipping and precision.

python -m tests.benchmarks.framework_tax      one JSON line; ratio 1 means that the loop costs nothing
"""

import time

import torch

from pipeline.engine import start_runtime
from pipeline.lm import LanguageModel, TokenLoss
from pipeline.loop import Trainer, steps
from tests.benchmarks.workload import LENGTH, ROWS, Rows, interleaved, new_model, print_line, spread, training

STEPS, REPEATS, WARMUP = 6, 7, 2


def ours() -> tuple:
    """A generator of our steps; each `next` is one optimizer step and gives its loss."""
    recipe = LanguageModel(
        training=training(), build=new_model, train=Rows(), held=None, sequence_length=LENGTH
    )
    trainer = Trainer(recipe, start_runtime())
    return ((info.sums["model/loss"].mean for info in steps(trainer)), trainer)


def bare():
    """The least that trains the same: no accumulation, no checks, no log; the loss is read as ours is."""
    from pipeline.data.packing import collate

    net, rows = TokenLoss(new_model().train()), Rows()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0, fused=True)
    for step in range(1_000_000):
        batch = collate([rows.item(step * ROWS + row) for row in range(ROWS)])
        with torch.autocast("cpu", torch.bfloat16):
            total = net(batch["input_ids"], batch["labels"], batch["document_ids"], batch["position_ids"])
        loss = total / (ROWS * LENGTH)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def timed(generator) -> float:
    """Tokens a second over STEPS steps."""
    started = time.perf_counter()
    for _ in range(STEPS):
        next(generator)
    return STEPS * ROWS * LENGTH / (time.perf_counter() - started)


def main() -> None:
    mine, _ = ours()
    plain = bare()
    pairs = [(next(mine), next(plain)) for _ in range(WARMUP)]
    gap = max(abs(a - b) for a, b in pairs)
    assert gap < 1e-4, f"the two loops do not train the same: losses differ by {gap}"
    figures = interleaved({"ours": lambda: timed(mine), "bare": lambda: timed(plain)}, REPEATS)
    ratios = [a / b for a, b in zip(figures["ours"], figures["bare"], strict=True)]
    print_line(
        "framework_tax",
        ratio=spread(ratios),
        unit="our tokens/s over the bare loop's",
        tokens_per_second={name: spread(values) for name, values in figures.items()},
        protocol=f"6.5 M Llama, bf16 autocast, {ROWS} x {LENGTH}, {STEPS} steps a sample, {REPEATS} pairs",
        largest_loss_difference=gap,
    )


if __name__ == "__main__":
    main()
