"""Run in a fresh process: does a GGUF file, read back by others, hold the model that it was made from?

`python -m pipeline.publish.verify_gguf DIRECTORY FILE TYPE` prints one JSON verdict, {refused, measured}; exits 2 where
something is refused. It is read by transformers and, where it is installed, run by llama.cpp (llama-cpp-python).
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from pipeline.publish.verify_export import HARD_STRINGS, logits_of, relative_difference, token_rows

# Root mean square of the logits' differences over that of the logits, of the weights as they are stored. Measured at
# worst, over the models of tests/test_gguf.py: f32 2e-7 by transformers and 3e-6 by llama.cpp.
BOUNDS = {"f32": 1e-4, "f16": 0.02, "bf16": 0.1, "q8_0": 0.1, "q5_0": 0.5, "q4_0": 0.7}
PROMPTS = ("def read_lines(path):\n    ", "The river rises in the hills and runs south.")


def verdict(directory: Path, file: Path, kind: str) -> dict[str, Any]:
    """What differs, and by how much."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    live = AutoModelForCausalLM.from_pretrained(directory, dtype="float32", use_safetensors=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rows = token_rows(live, tokenizer, list(PROMPTS))
    exact = logits_of(live, rows)
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    if config.model_type == live.config.model_type:
        config = (
            live.config
        )  # transformers reads no head_dim, biases or scaling (5.23); llama.cpp goes by the file
    given = {"gguf_file": file.name, "config": config, "dtype": "float32"}
    read = AutoModelForCausalLM.from_pretrained(file.parent, **given).eval()
    found = {"transformers": logits_of(read, rows)}
    refused = []
    if importlib.util.find_spec("llama_cpp"):
        found["llama.cpp"], others = by_llama_cpp(file, rows, [text for text in HARD_STRINGS if text])
        for text, ids in others.items():
            if ids != (own := tokenizer(text).input_ids):
                refused.append(f"llama.cpp reads {text[:20]!r} as {ids[:12]}, the tokenizer as {own[:12]}")
    measured: dict[str, Any] = {"bytes": file.stat().st_size, "read_by": list(found)}
    for name, logits in found.items():
        difference = relative_difference(logits, exact)
        same = [(a.argmax(-1) == b.argmax(-1)).float() for a, b in zip(logits, exact, strict=True)]
        measured[name] = {
            "logit_difference_relative": difference,
            "likeliest_token_the_same": sum(float(each.sum()) for each in same) / sum(map(len, same)),
        }
        if not difference <= BOUNDS[kind]:
            refused.append(
                f"logits by {name} differ by {difference:.3g} of their size, at most {BOUNDS[kind]} expected"
            )
    return {"refused": refused, "measured": measured}


def by_llama_cpp(
    file: Path, rows: list[list[int]], texts: list[str]
) -> tuple[list[Any], dict[str, list[int]]]:
    """The logits of each row, [T, V], and the tokens of each text."""
    import torch
    from llama_cpp import Llama

    model = Llama(str(file), n_ctx=max(map(len, rows)) + 1, logits_all=True, verbose=False, n_batch=512)
    found = []
    for row in rows:
        model.reset()
        model.eval(row)
        found.append(torch.from_numpy(model.scores[: len(row)].copy()))
    tokens = {text: model.tokenize(text.encode(), add_bos=False, special=True) for text in texts}
    return found, tokens


if __name__ == "__main__":
    said = verdict(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    print(json.dumps(said))
    sys.exit(2 if said["refused"] else 0)
