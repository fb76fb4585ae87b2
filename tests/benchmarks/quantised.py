"""LoRA on a base in nf4 and in int8 beside the base as it is: tokens a second in turns, memory, and what was planned.

python -m tests.benchmarks.quantised      one JSON line; a ratio above 1: faster than on the plain base

A Llama of random weights, adapters on every linear layer, AdamW, the same rows; the plain base is fp32, computed in
bf16 by autocast, as LoRA has it. What the weights take is counted tensor by tensor; on a GPU the allocator's peak
stands beside the plan.
"""

from typing import Any

import torch

from pipeline.lm.config import Lora, Model
from tests.benchmarks.workload import (
    Rows,
    new_model,
    on_the_cpu,
    our_steps,
    our_trainer,
    print_line,
    race,
    ratio,
    spread,
    training,
)

KINDS = (None, "nf4", "int8")
STEPS, REPEATS, THREADS = 2, 5, 2
VOCABULARY, LENGTH, ROWS = 32_000, 512, 4
SHAPE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": LENGTH,
    "tie_word_embeddings": True,
}


def measure(
    model: Model, vocabulary: int, length: int, count: int, steps: int, repeats: int, warmup: int = 3
) -> dict[str, Any]:
    """Figures of each kind of base, by its name; count: rows of a step."""
    from pipeline.lm.tuning.lora import add_adapters
    from pipeline.lm.tuning.quantised import quantise

    rows = Rows(vocabulary, length)
    settings = training(
        sequence_length=length, train_batch_size=count, per_device_train_batch_size=count, learning_rate=1e-4
    )
    on_gpu = torch.cuda.is_available()
    contestants, figures = {}, {}
    for kind in KINDS:
        lora, name = Lora(r=16, lora_alpha=32, quantisation=kind), kind or "plain"

        def built(lora: Lora = lora) -> Any:
            net = new_model(model, vocabulary, length)
            return add_adapters(quantise(net, lora) if lora.quantisation else net, lora)

        before = _reset() if on_gpu else 0
        trainer = our_trainer(settings, built, rows)
        contestants[name] = our_steps(trainer)
        figures[name] = {
            "first_losses": [next(contestants[name]) for _ in range(warmup)],
            "weights_gb": weights_of(trainer.engines["model"].module) / 1e9,
            "planned_gb": planned(model, vocabulary, length, settings, lora) / 1e9,
        }
        if on_gpu:
            figures[name]["measured_gb"] = (torch.cuda.max_memory_allocated() - before) / 1e9
    found = race(contestants, count * length, steps, repeats)
    return {
        "ratios": {kind: ratio(found, kind, "plain") for kind in KINDS if kind},
        "tokens_per_second": {name: spread(values) for name, values in found.items()},
        "bases": figures,
    }


def _reset() -> int:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def weights_of(net: torch.nn.Module) -> int:
    """Bytes of the parameters and of the scales beside codes."""
    from pipeline.lm.tuning.quantised import quantised_layers

    scales = [scale for _, layer in quantised_layers(net) for scale in layer.scales]
    return sum(tensor.numel() * tensor.element_size() for tensor in (*net.parameters(), *scales))


def planned(model: Model, vocabulary: int, length: int, settings: Any, lora: Lora) -> float:
    """Bytes of one process, as `headwater plan` foretells them."""
    from pathlib import Path

    from pipeline.lm.attention import chosen
    from pipeline.lm.model import build_config
    from pipeline.lm.recipe import size_of
    from pipeline.run.launch import Launch, find_launch_file
    from pipeline.run.memory import memory

    config, launch = (
        build_config(model, vocabulary, {}, length),
        Launch(find_launch_file(Path("one")), 1, None, {}),
    )
    attention = chosen("auto", config, True, length)
    return memory(size_of(config, settings, length, lora, launch, attention), settings, launch).total


def main() -> None:
    on_the_cpu(THREADS)
    model = Model(architecture="llama", config=SHAPE)
    figures = measure(model, VOCABULARY, LENGTH, ROWS, STEPS, REPEATS)
    protocol = (
        f"bf16 autocast, rank 16, {ROWS} rows of {LENGTH} a step, {STEPS} steps a sample, {REPEATS} turns"
    )
    print_line("quantised", **figures, protocol=protocol)


if __name__ == "__main__":
    main()
