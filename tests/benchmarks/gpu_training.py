"""Model FLOP/s of our loop over the matmul rate of the same GPU in the same run; 1 is the physical limit.

python -m tests.benchmarks.gpu_training      one JSON line; without CUDA the line says that it did not run

Each recipe of SHAPES as it stands, on random rows, with what one GPU of eight has of its batch and without
recomputation; layers compiled where the recipe says so. The matmul is bf16, square, SIDE wide. Model FLOPs a token:
6 N + 12 L d T (pipeline.lm.recipe.flops_per_token), full attention counted, the optimizer's own not.
"""

import time
from collections.abc import Callable

import torch

from pipeline.lm.config import LanguageModelConfig, Pretrain
from tests.benchmarks.workload import (
    Rows,
    interleaved,
    new_model,
    our_steps,
    our_trainer,
    print_line,
    recipe,
    spread,
    warm_up,
)

SHAPES = ("gpt2_124m", "llama_1b")
GPUS_OF_RECIPE, WARMUP, STEPS, REPEATS = 8, 3, 3, 5
SIDE, PRODUCTS = 8192, 50


def matmul_rate(device: torch.device, side: int, products: int) -> float:
    """FLOP/s of `products` bf16 products of two `side` x `side` matrices of normal numbers."""
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(left)
    torch.mm(left, right, out=out)
    seconds = timed(device, lambda: [torch.mm(left, right, out=out) for _ in range(products)])
    return 2 * side**3 * products / seconds


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of `work`, with everything it queued on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def one_gpus_share(settings: Pretrain) -> Pretrain:
    """The recipe's training as one GPU of eight does it, in bf16, without recomputation or an end."""
    changes = {
        "train_batch_size": max(
            settings.per_device_train_batch_size, settings.train_batch_size // GPUS_OF_RECIPE
        ),
        "gradient_checkpointing": False,
        "bf16": True,
        "max_steps": 1_000_000,
    }
    return settings.model_copy(update=changes)


def measure(
    config: LanguageModelConfig, vocabulary: int, steps: int, repeats: int, side: int, products: int
) -> dict:
    """Achieved over possible for one recipe, the step and the matmul in turns."""
    settings = one_gpus_share(config.pretrain)
    rows = Rows(vocabulary, settings.sequence_length)
    trainer = our_trainer(
        settings, lambda: new_model(config.model, vocabulary, settings.sequence_length), rows
    )
    device, contestant = trainer.runtime.device, our_steps(trainer)
    losses, seconds = warm_up({"ours": contestant}, WARMUP)
    flops = trainer.recipe.flops_per_sample * settings.train_batch_size * steps
    runners = {
        "model": lambda: flops / timed(device, lambda: [next(contestant) for _ in range(steps)]),
        "matmul": lambda: matmul_rate(device, side, products),
    }
    rates = interleaved(runners, repeats)
    return report(rates, trainer, flops / steps) | {
        "first_losses": losses["ours"],
        "warm_up_seconds": seconds,
    }


def report(rates: dict[str, list[float]], trainer, flops_per_step: float) -> dict:
    """The figures of one recipe from its interleaved rates in FLOP/s."""
    settings = trainer.training
    tokens = settings.train_batch_size * settings.sequence_length
    return {
        "ratio": spread([a / b for a, b in zip(rates["model"], rates["matmul"], strict=True)]),
        "tokens_per_second": spread([rate * tokens / flops_per_step for rate in rates["model"]]),
        "tflops_per_second": {name: spread([r / 1e12 for r in found]) for name, found in rates.items()},
        "parameters": sum(p.numel() for p in trainer.engines["model"].module.parameters()),
        "batch": f"{settings.train_batch_size} x {settings.sequence_length} tokens a step, "
        f"{trainer.batches.accumulation} micro-batches, {settings.optim}, compiled: {settings.torch_compile}, "
        f"attention: {trainer.engines['model'].module.model.config._attn_implementation}",
    }


def main() -> None:
    if not torch.cuda.is_available():
        print_line("gpu_training", ran=False, reason="no CUDA device is here")
        return
    figures = {}
    for name in SHAPES:
        config = recipe(name)
        figures[name] = measure(config, config.tokenizer.vocabulary_size, STEPS, REPEATS, SIDE, PRODUCTS)
        torch.cuda.empty_cache()
    print_line(
        "gpu_training",
        ran=True,
        **figures,
        unit="model FLOP/s over bf16 matmul FLOP/s; model FLOPs a token 6 N + 12 L d T",
        peak_memory_bytes=torch.cuda.max_memory_allocated(),
        protocol=f"bf16 autocast, fp32 weights, {STEPS} steps a sample, {REPEATS} pairs with {PRODUCTS} products "
        f"of {SIDE} x {SIDE}",
    )


if __name__ == "__main__":
    main()
