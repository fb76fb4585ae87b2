"""Run in a fresh process: does an exported directory, loaded by plain transformers and peft, equal the live model?

`python -m pipeline.publish.verify_export EXPORTED LIVE [ADAPTER BASE] [--bf16-bound X] [--prompts FILE] [--scores]`
prints one JSON verdict: {agrees, refused, measured}. None of this project's code loads the exported side. --scores: the
model is a sequence classifier of one class, whose logits are its one number at a text's end. An adapter that was
trained on a base in codes, as its directory says, is put on what these stand for.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.lm.config import Lora
from pipeline.lm.tuning.lora import CODES

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# Absolute for the merged weights: the same fp32 numbers in the same library, measured 0. For the adapter relative to
# the largest logit: merging rounds W + BA where the adapter adds two products. Measured at worst 8.6e-6 on
# SmolLM2-135M with logits of 34 (2.9e-4 absolute) and 7.4e-6 on random models; bfloat16 gives 9e-2.
BOUNDS = {
    "fp32_logit_difference": 1e-5,
    "adapter_logit_difference_relative": 3e-5,
    "padded_logit_difference_relative": 3e-5,  # of a text in a padded batch from the text alone; classifiers only
}
RANDOM_ROWS, ROW_TOKENS = 4, 64
HARD_STRINGS = (
    "",
    " leading and trailing ",
    "a\r\nb\n\n\tc",
    "def f(x):\n    return {'k': x}  # 1,234.5\n",
    "\u00e9 e\u0301 \u6f22\u5b57 \U0001f469\u200d\U0001f4bb \ufeff\ufffd",
    "<|bos|><|end|></s>[INST]",
    "it is n't , is it ? no .",
)


def largest_difference(first: list[Tensor], second: list[Tensor]) -> float:
    """The largest absolute difference of logits, in fp32; NaN where either side holds one."""
    import torch

    pairs = zip(first, second, strict=True)
    return float(torch.stack([(a.float() - b.float()).abs().max() for a, b in pairs]).max())


def relative_difference(coarse: list[Tensor], exact: list[Tensor]) -> float:
    """The root mean square of the logits' differences over that of the logits, each position centred.

    A constant added to a position's logits changes no probability. The largest difference was rejected: it grows with
    the number of logits compared.
    """
    pairs = zip(coarse, exact, strict=True)
    squares = [(_centred_square(a.double() - b), _centred_square(b.double())) for a, b in pairs]
    difference, scale = (math.fsum(parts) for parts in zip(*squares, strict=True))
    return math.sqrt(difference / scale) if scale else math.sqrt(difference)


def _centred_square(logits_TV: Tensor) -> float:
    if logits_TV.shape[-1] > 1:  # one number, a classifier's, has no other to be compared with
        logits_TV = logits_TV - logits_TV.mean(-1, keepdim=True)
    return float(logits_TV.square().sum())


def logits_of(model: PreTrainedModel, rows: list[list[int]]) -> list[Tensor]:
    """[T, V] for each row of ids, one row at a time: nothing is padded."""
    import torch

    with torch.inference_mode():
        return [model(torch.tensor([row])).logits[0] for row in rows]


def padded_logits(model: PreTrainedModel, rows: list[list[int]]) -> list[Tensor]:
    """What a classifier says of each row in one batch, padded behind: [classes] each."""
    import torch

    longest, pad = max(map(len, rows)), model.config.pad_token_id
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    seen = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    with torch.inference_mode():
        return list(model(input_ids=ids, attention_mask=seen).logits)


def token_rows(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: list[str]
) -> list[list[int]]:
    """The ids that are compared on: random ones over the whole vocabulary, and each prompt."""
    import torch

    from pipeline.lm.model import positions_of
    from pipeline.lm.prompts import document_prompt

    length = min(ROW_TOKENS, positions_of(model.config) or ROW_TOKENS)
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(0, model.config.vocab_size, (RANDOM_ROWS, length), generator=generator).tolist()
    return random + [document_prompt(tokenizer, prompt)[:length] for prompt in prompts]


def tensor_faults(directory: Path, model: PreTrainedModel, info: dict[str, Any]) -> list[str]:
    """What is wrong with the stored tensors: absent, unknown, empty, not fp32, or one of a tied group stored twice."""
    from safetensors import safe_open

    faults = [
        f"{kind.replace('_', ' ')}: {sorted(map(str, names))[:3]}" for kind, names in info.items() if names
    ]
    stored: list[str] = []
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():
                part = file.get_slice(key)
                stored.append(key)
                if 0 in part.get_shape():
                    faults.append(f"{key} is empty: shape {part.get_shape()}")
                if part.get_dtype() != "F32":
                    faults.append(f"{key} is stored as {part.get_dtype()}, not F32")
    return faults + [
        f"{' and '.join(group)} are tied and stored twice" for group in _stored_twice(model, stored)
    ]


def _stored_twice(model: PreTrainedModel, stored: list[str]) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(parameter.data_ptr(), []).append(name)
    kept = [[name for name in group if name in stored] for group in groups.values()]
    return [group for group in kept if len(group) > 1]


def tokenizer_faults(
    exported: PreTrainedTokenizerFast, live: PreTrainedTokenizerFast, texts: list[str]
) -> list[str]:
    """Where the exported tokenizer differs: rules, special tokens, ids, decoding, rendering of conversations."""
    faults = []
    if exported.backend_tokenizer.to_str() != live.backend_tokenizer.to_str():
        faults.append("the tokenizer's vocabulary or rules differ")
    if exported.special_tokens_map != live.special_tokens_map:
        faults.append("the tokenizer's special tokens differ")
    for text in texts:
        ids, expected = exported(text)["input_ids"], live(text)["input_ids"]
        if ids != expected or exported.decode(ids) != live.decode(expected):
            faults.append(f"the tokenizer differs on {text[:40]!r}")
    if _rendered(exported) != _rendered(live):
        faults.append("the chat template differs")
    return faults


def round_trips(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> int:
    """How many texts come back exactly from encoding and decoding."""
    return sum(
        tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text for text in texts
    )


def _rendered(tokenizer: PreTrainedTokenizerFast) -> Any:
    if tokenizer.chat_template is None:
        return None
    turns = [("user", "What is it?"), ("assistant", "A thing."), ("user", "Why?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    kept = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    return tokenizer.chat_template, kept, tokenizer.apply_chat_template(messages[:2], tokenize=False)


def generation_faults(exported: PreTrainedModel, stops: frozenset[int], begin: int | None) -> list[str]:
    """Where plain `generate` would not stop at `stops`, or begin with `begin`, as our own sampling does."""
    found, faults = exported.generation_config, []
    theirs = found.eos_token_id if isinstance(found.eos_token_id, list) else [found.eos_token_id]
    if set(theirs) != stops:
        faults.append(f"generation_config.json stops at {theirs}, expected {sorted(stops)}")
    if found.bos_token_id != begin:
        faults.append(f"generation_config.json begins with {found.bos_token_id}, expected {begin}")
    if not exported.config.use_cache:
        faults.append("config.json turns the cache off: generation would be slow")
    return faults


class Live(NamedTuple):
    """What the live model says.

    rows: the ids compared on; logits: [T, V] a row; scale: the largest logit, 1 where all are 0;
    stops: the tokens that end a text.
    """

    rows: list[list[int]]
    logits: list[Tensor]
    scale: float
    stops: frozenset[int]


def read_live(directory: Path, tokenizer: PreTrainedTokenizerFast, prompts: list[str], scores: bool) -> Live:
    """Load the live model as the stages do, and let it go again."""
    from pipeline.lm.model import load_model, load_scorer
    from pipeline.lm.prompts import stop_ids

    model = load_scorer(directory) if scores else load_model(directory)
    rows = token_rows(model, tokenizer, prompts)
    logits = logits_of(model, rows)
    stops = frozenset() if scores else stop_ids(model, tokenizer)
    return Live(rows, logits, max(float(row.abs().max()) for row in logits) or 1.0, stops)


def verify(
    exported: Path,
    live: Path,
    adapter: tuple[Path, Path] | None,
    bf16_bound: float,
    prompts: list[str],
    scores: bool = False,
) -> dict[str, Any]:
    """The verdict on an exported directory. One model is held at a time, beside the logits.

    adapter: (adapter directory, directory of its base), compared with the exported weights, which are merged.
    bf16_bound: largest accepted `relative_difference` of the bfloat16 copy. Measured on SmolLM2-135M, the
        quickstart's model and random ones: 0.006 to 0.036; with matrices in 8-bit floats 0.053 to 0.23.
    prompts: compared on beside random ids. scores: of a sequence classifier of one class.

    Returns:
        agrees; refused: one line for each thing that differs; measured: plain numbers.
    """
    from transformers import AutoTokenizer

    from pipeline.lm.model import load_tokenizer

    tokenizer, plain = load_tokenizer(live), AutoTokenizer.from_pretrained(exported)
    texts = [*HARD_STRINGS, *prompts]
    refused = tokenizer_faults(plain, tokenizer, texts)
    reference = read_live(live, tokenizer, prompts, scores)
    differences, faults = compare(exported, reference, adapter, tokenizer.bos_token_id, scores)
    bounds = BOUNDS | {"bf16_logit_difference_relative": bf16_bound}
    refused += faults + [
        _too_far(n, value, bounds[n]) for n, value in differences.items() if not value <= bounds[n]
    ]
    measured = differences | {
        "tokenizer_round_trips": round_trips(plain, texts),
        "tokenizer_texts": len(texts),
        "logits_compared": sum(row.numel() for row in reference.logits),
        "largest_logit": reference.scale,
    }
    return {"agrees": not refused, "refused": refused, "measured": measured}


def compare(
    exported: Path,
    live: Live,
    adapter: tuple[Path, Path] | None,
    begin: int | None,
    scores: bool = False,
) -> tuple[dict[str, float], list[str]]:
    """(differences of logits by the name of their bound, faults of what is stored)."""
    import torch

    model, info = _plain(exported, torch.float32, scores)
    faults = tensor_faults(exported, model, info)
    faults += [] if scores else generation_faults(model, live.stops, begin)
    whole, padding = logits_of(model, live.rows), model.config.pad_token_id
    found = {"fp32_logit_difference": largest_difference(whole, live.logits)}
    if scores:
        found["padded_logit_difference_relative"] = (
            largest_difference(padded_logits(model, live.rows), whole) / live.scale
        )
    model = _plain(exported, torch.bfloat16, scores)[0]
    half = logits_of(model, live.rows)
    found["bf16_logit_difference_relative"] = relative_difference(half, live.logits)
    if adapter:
        model = _with_adapter(*adapter, scores)
        model.config.pad_token_id = padding
        found["adapter_logit_difference_relative"] = (
            largest_difference(logits_of(model, live.rows), whole) / live.scale
        )
    return found, faults


def _too_far(name: str, value: float, bound: float) -> str:
    return f"{name} is {value:.3g}, and at most {bound:g} is accepted"


def _plain(directory: Path, dtype: Any, scores: bool) -> tuple[PreTrainedModel, dict[str, Any]]:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto, how = (
        (AutoModelForSequenceClassification, {"num_labels": 1}) if scores else (AutoModelForCausalLM, {})
    )
    model, info = auto.from_pretrained(directory, dtype=dtype, output_loading_info=True, **how)
    return model.eval(), info


def _with_adapter(adapter: Path, base: Path, scores: bool) -> PreTrainedModel:
    import torch
    from peft import PeftModel

    from pipeline.lm.tuning.quantised import dequantise, quantise

    model = _plain(base, torch.float32, scores)[0]
    if (adapter / CODES).is_file():
        whole = json.loads((adapter / "adapter_config.json").read_text()).get("modules_to_save") or ()
        lora = Lora(**json.loads((adapter / CODES).read_text()), modules_to_save=whole)
        model = dequantise(quantise(model, lora))
    return PeftModel.from_pretrained(model, adapter).eval()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.publish.verify_export")
    parser.add_argument("exported", type=Path, help="the directory to be published")
    parser.add_argument("live", type=Path, help="the model directory it was made from")
    parser.add_argument("adapter", type=Path, nargs="*", help="the adapter's directory and that of its base")
    parser.add_argument(
        "--bf16-bound", type=float, default=0.05, help="root mean square, relative to the logits'"
    )
    parser.add_argument("--prompts", type=Path, help="a JSON list of strings to compare on")
    parser.add_argument("--scores", action="store_true", help="a sequence classifier of one class")
    given = parser.parse_args(arguments)
    if len(given.adapter) not in (0, 2):
        parser.error("an adapter is given together with its base")
    prompts = json.loads(given.prompts.read_text()) if given.prompts else []
    adapter = tuple(given.adapter) or None
    verdict = verify(given.exported, given.live, adapter, given.bf16_bound, prompts, given.scores)
    print(json.dumps(verdict))
    return 0 if verdict["agrees"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
