"""Sampled tokens a second of the reward loop's decoding over transformers' generate, which TRL's GRPOTrainer calls.

python -m tests.benchmarks.sampling      one JSON line; a ratio above 1: ours is faster

The quickstart's model of random weights, groups of answers to prompts of many lengths, temperature 1, every answer as
long as it may be, fp32, one process. Ours draws each answer by noise of its own, as resuming needs it.
"""

from functools import partial
from typing import Any

import numpy as np
import torch

from tests.benchmarks.workload import interleaved, new_model, on_the_cpu, print_line, ratio, recipe, spread

THREADS, REPEATS = 2, 5
PROMPTS, GROUP, NEW = 8, 8, 64


def rates(net: Any, prompts: list[list[int]], new: int, repeats: int) -> dict[str, list[float]]:
    """Tokens a second of both sides, in turns, after one unmeasured call each."""
    from time import perf_counter

    from pipeline.lm.decoding import left_padded, stream

    ids, mask = left_padded(prompts)

    def ours() -> None:
        found = stream(net, prompts, new, 1.0, 1.0, list(range(len(prompts))), frozenset())
        assert sum(1 for _ in found) == new

    def generate() -> None:
        with torch.no_grad():
            out = net.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=new, min_new_tokens=new, pad_token_id=0,
            )  # fmt: skip
        assert out.shape[1] == ids.shape[1] + new

    def rate(work: Any) -> float:
        began = perf_counter()
        work()
        return len(prompts) * new / (perf_counter() - began)

    ours(), generate()
    return interleaved({"ours": partial(rate, ours), "generate": partial(rate, generate)}, repeats)


def measure(model: Any, vocabulary: int, positions: int, new: int, repeats: int) -> dict[str, Any]:
    """Figures of PROMPTS groups of GROUP answers."""
    net = new_model(model, vocabulary, positions).eval()
    random = np.random.default_rng(0)
    prompts = [random.integers(5, vocabulary, random.integers(8, 33)).tolist() for _ in range(PROMPTS)]
    found = rates(net, [prompt for prompt in prompts for _ in range(GROUP)], new, repeats)
    return {
        "ratio": ratio(found, "ours", "generate"),
        "tokens_per_second": {name: spread(values) for name, values in found.items()},
    }


def main() -> None:
    on_the_cpu(THREADS)
    config = recipe("quickstart")
    figures = measure(
        config.model, config.tokenizer.vocabulary_size, config.pretrain.sequence_length, NEW, REPEATS
    )
    protocol = (
        f"{PROMPTS} prompts of 8 to 32 tokens, {GROUP} answers of {NEW} tokens each, fp32, {REPEATS} turns"
    )
    print_line("sampling", **figures, protocol=protocol)


if __name__ == "__main__":
    main()
