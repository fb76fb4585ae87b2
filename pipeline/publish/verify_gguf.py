"""Run in a fresh process: does a GGUF file, read back by others, hold the model that it was made from?

`python -m pipeline.publish.verify_gguf DIRECTORY FILE TYPE` prints one JSON verdict, {refused, measured}; exits 2 where
something is refused. It is read by transformers and, where it is installed, run by llama.cpp (llama-cpp-python).
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import sys
import unicodedata
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from pipeline.publish.verify_export import HARD_STRINGS, logits_of, relative_difference, token_rows

# Root mean square of the logits' differences over that of the logits, of the weights as they are stored. Measured at
# worst, over the models of tests/test_gguf.py: f32 2e-7 by transformers and 3e-6 by llama.cpp.
BOUNDS = {"f32": 1e-4, "f16": 0.02, "bf16": 0.1, "q8_0": 0.1, "q5_0": 0.5, "q4_0": 0.7}
PROMPTS = ("def read_lines(path):\n    ", "The river rises in the hills and runs south.")


def verdict(directory: Path, file: Path, kind: str) -> dict[str, Any]:
    """What differs, and by how much."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from pipeline.lm.model import load_tokenizer

    live = AutoModelForCausalLM.from_pretrained(directory, dtype="float32", use_safetensors=True).eval()
    tokenizer = load_tokenizer(directory)
    rows = token_rows(live, tokenizer, list(PROMPTS))
    exact = logits_of(live, rows)
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    if config.model_type == live.config.model_type:
        # transformers reads no head_dim, biases or scaling from a file (5.23); llama.cpp goes by the file alone.
        config = live.config
    given = {"gguf_file": file.name, "config": config, "dtype": "float32"}
    read = AutoModelForCausalLM.from_pretrained(file.parent, **given).eval()
    found = {"transformers": logits_of(read, rows)}
    refused = []
    crashed = False
    composes = (json.loads(tokenizer.backend_tokenizer.to_str())["normalizer"] or {}).get("type") == "NFC"
    if importlib.util.find_spec("llama_cpp"):
        texts = [text for text in HARD_STRINGS if text]
        if composes:  # llama.cpp does not
            texts = [unicodedata.normalize("NFC", text) for text in texts]
        try:  # in a process of its own: where it crashes, it takes that one along
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
                logits, read_as = other.submit(by_llama_cpp, file, rows, texts).result()
            found["llama.cpp"] = [torch.from_numpy(each) for each in logits]
        except BrokenProcessPool:
            crashed, read_as = True, {}
        for text, ids in read_as.items():
            if ids != (own := tokenizer(text, add_special_tokens=False).input_ids):
                refused.append(f"llama.cpp reads {text[:20]!r} as {ids[:12]}, the tokenizer as {own[:12]}")
    measured: dict[str, Any] = {
        "bytes": file.stat().st_size, "read_by": list(found), "llama_cpp_crashed": crashed, "composes": composes,
    }  # fmt: skip
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
    """The logits of each row, fp32 [T, V], and the tokens of each text."""
    from llama_cpp import Llama

    exact = {"type_k": 0, "type_v": 0, "flash_attn": False}  # keys and values in fp32
    model = Llama(str(file), n_ctx=max(map(len, rows)) + 1, logits_all=True, verbose=False, **exact)
    found = []
    for row in rows:
        model.reset()
        model.eval(row)
        found.append(model.scores[: len(row)].copy())
    tokens = {text: model.tokenize(text.encode(), add_bos=False, special=True) for text in texts}
    return found, tokens


if __name__ == "__main__":
    said = verdict(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    print(json.dumps(said))
    sys.exit(2 if said["refused"] else 0)
