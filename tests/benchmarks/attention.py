"""A training step on packed rows: documents one by one, the dense mask, and transformers' own packed path, in turns.

python -m tests.benchmarks.attention [T ...]      one JSON line a length; by default 512, 2,048 and 8,192 positions
python -m tests.benchmarks.attention memory       peaks of one row of flash, each T twice the one before: linear in T

Each in our loop on the small Llama, AdamW, one process, TOKENS tokens a step in rows of T, documents of 400 tokens on
average. transformers' own path is what its models do with positions that begin again at 0 and no mask: it makes a mask
of T x T itself. Peak memory is of a process of its own that trains two steps. Parity of the first losses comes first.
"""

import subprocess
import sys
from functools import partial

from torch import Tensor, nn

from pipeline.lm.recipe import LanguageModel, TokenLoss, summed_loss
from pipeline.run.provenance import peak_memory_bytes
from pipeline.train.engine import start_runtime
from pipeline.train.loop import Trainer
from tests.benchmarks.workload import (
    VOCABULARY,
    PackedRows,
    new_model,
    on_the_cpu,
    our_steps,
    parity_gate,
    print_line,
    race,
    ratio,
    small_llama,
    spread,
    training,
    warm_up,
)

LENGTHS, TOKENS, DOCUMENT = (512, 2048, 8192), 8192, 400
ONE_ROW = (2048, 4096, 8192, 16384)
CONTESTANTS = ("flash", "sdpa", "transformers")
STEPS, REPEATS, NEAR = 1, 5, {"bf16": 5e-3, "fp32": 1e-4}  # nats a token


class ByPositions(TokenLoss):
    """What transformers makes of packed positions by itself."""

    def forward(
        self, input_ids_BT: Tensor, labels_BT: Tensor, _: Tensor, position_ids_BT: Tensor, *__
    ) -> Tensor:
        logits = self.model(input_ids=input_ids_BT, position_ids=position_ids_BT, use_cache=False).logits
        return summed_loss(logits, labels_BT)


class Transformers(LanguageModel):
    def nets(self) -> dict[str, nn.Module]:
        return {"model": ByPositions(super().nets()["model"].model)}


def trainer_of(
    name: str,
    length: int,
    bf16: bool,
    tokens: int = TOKENS,
    threads: int = 2,
    checkpointing: bool = False,
) -> Trainer:
    rows = tokens // length
    settings = training(
        sequence_length=length,
        train_batch_size=rows,
        per_device_train_batch_size=rows,
        bf16=bf16,
        gradient_checkpointing=checkpointing,
    )
    model = small_llama()
    model = model.model_copy(update={"config": model.config | {"max_position_embeddings": length}})
    build = partial(new_model, model, VOCABULARY, length, "sdpa" if name == "transformers" else name)
    kind = Transformers if name == "transformers" else LanguageModel
    split = PackedRows(VOCABULARY, length, DOCUMENT)
    return Trainer(kind(settings, build, split, None, length), start_runtime(threads))


def peak(name: str, length: int, tokens: int, checkpointing: bool) -> None:
    """Print the bytes at this process's peak, after two steps in fp32 on one thread."""
    on_the_cpu(1)
    running = our_steps(trainer_of(name, length, False, tokens, 1, checkpointing))
    next(running), next(running)
    running.close()
    print(peak_memory_bytes())


def peak_of(name: str, length: int, tokens: int = TOKENS, checkpointing: bool = False) -> int:
    given = [name, str(length), str(tokens), "checkpointed" if checkpointing else ""]
    command = [sys.executable, "-m", "tests.benchmarks.attention", "peak", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-1000:]}")
    return int(done.stdout.splitlines()[-1])


def measure(
    length: int, bf16: bool, steps: int = STEPS, repeats: int = REPEATS, tokens: int = TOKENS
) -> dict:
    """Tokens a second of each, and their ratios."""
    contestants = {name: our_steps(trainer_of(name, length, bf16, tokens)) for name in CONTESTANTS}
    losses, _ = warm_up(contestants, 2)
    gaps = parity_gate(losses, dict.fromkeys(CONTESTANTS[1:], NEAR["bf16" if bf16 else "fp32"]))
    found = race(contestants, tokens // length * length, steps, repeats)
    for running in contestants.values():
        running.close()
    return {
        "over_dense": ratio(found, "flash", "sdpa"),
        "over_transformers": ratio(found, "flash", "transformers"),
        "tokens_per_second": {name: spread(values) for name, values in found.items()},
        "losses_differ_by": gaps,
    }


def main() -> None:
    if sys.argv[1:2] == ["peak"]:
        return peak(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), bool(sys.argv[5]))
    if sys.argv[1:2] == ["memory"]:
        for checkpointing in (False, True):
            found = {T: round(peak_of("flash", T, T, checkpointing) / 1e9, 2) for T in ONE_ROW}
            print_line("attention_memory", gradient_checkpointing=checkpointing, peak_gb_in_fp32=found)
        return None
    lengths = [int(length) for length in sys.argv[1:]] or LENGTHS
    on_the_cpu(2)
    for length in lengths:
        memory = {name: round(peak_of(name, length) / 1e9, 2) for name in CONTESTANTS}
        for bf16 in (True, False):
            figures = measure(length, bf16)
            precision = "bf16" if bf16 else "fp32"
            print_line("attention", length=length, precision=precision, peak_gb_in_fp32=memory, **figures)


if __name__ == "__main__":
    main()
