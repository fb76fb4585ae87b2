"""Our loop over a bare PyTorch loop, one process: the same model, rows, optimizer, clipping and precision.

python -m tests.benchmarks.framework_tax      one JSON line; ratio 1 means that the loop costs nothing
"""

from collections.abc import Iterator

import torch
from torch import nn

from tests.benchmarks.workload import (
    LENGTH,
    ROWS,
    Rows,
    new_model,
    on_the_cpu,
    our_steps,
    our_trainer,
    parity_gate,
    print_line,
    race,
    ratio,
    spread,
    training,
    warm_up,
)

THREADS, STEPS, REPEATS, WARMUP = 2, 6, 7, 3
TOLERANCE = 1e-6  # nats: the same operations; only the place of the division by the count differs


def bare(net: nn.Module, rows: Rows) -> Iterator[float]:
    """The least that trains the same: no accumulation, no checks, no log; the loss is read as ours is.

    net: `TokenLoss` of a model, so that mask, forward and loss are ours.
    """
    from pipeline.data.packing import collate

    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0, fused=True)
    for step in range(1_000_000):
        batch = collate([rows.item(step * ROWS + row) for row in range(ROWS)])
        with torch.autocast("cpu", torch.bfloat16):
            total = net(batch["input_ids"], batch["labels"], batch["document_ids"], batch["position_ids"])
        loss = total / (ROWS * (rows.sequence_length - 1))  # a row's last token has no target
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def main() -> None:
    from pipeline.lm.recipe import TokenLoss

    on_the_cpu(THREADS)
    rows = Rows()
    contestants = {
        "bare": bare(TokenLoss(new_model().train()), rows),
        "ours": our_steps(our_trainer(training(), new_model, rows)),
    }
    losses, seconds = warm_up(contestants, WARMUP)
    gaps = parity_gate(losses, {"ours": TOLERANCE})
    figures = race(contestants, ROWS * LENGTH, STEPS, REPEATS)
    print_line(
        "framework_tax",
        ratio=ratio(figures, "ours", "bare"),
        unit="our tokens/s over the bare loop's",
        tokens_per_second={name: spread(values) for name, values in figures.items()},
        loss_differences=gaps,
        warm_up_seconds=seconds,
        protocol=f"the small Llama, bf16 autocast, {ROWS} x {LENGTH}, {STEPS} steps a sample, {REPEATS} pairs",
    )


if __name__ == "__main__":
    main()
