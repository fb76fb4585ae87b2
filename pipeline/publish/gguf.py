"""`headwater gguf MODEL OUT`: a model as one file for llama.cpp, Ollama and what is built on them, checked afresh.

Names of tensors and keys are the `gguf` library's, which llama.cpp publishes; what is here is what a model needs beside
them: its rotary layout, its tokenizer in llama.cpp's words, and its chat template as Ollama has it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.run.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).parents[2]
TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q5_0": "Q5_0", "q4_0": "Q4_0"}
BLOCK = 32  # weights that share a scale; a matrix of other row lengths stays in f16
# llama.cpp's words for how a text is cut before BPE, by the cuts in tokenizer.json; tests ask llama.cpp itself.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CUTS = {
    (("split", LLAMA3), ("bytes", "")): {True: "llama-bpe", False: "smaug-bpe"},  # by ignore_merges
    (("split", QWEN2), ("bytes", "")): {False: "qwen2"},
    (("bytes", "own"),): {False: "gpt-2"},
    (("digits", "one"), ("bytes", "own")): {False: "smollm"},
}


@dataclass(frozen=True)
class Architecture:
    """name: llama.cpp's; interleaved: it turns neighbouring pairs of a head, where transformers turns its halves."""

    name: str
    interleaved: bool = False


ARCHITECTURES = {
    "llama": Architecture("llama", interleaved=True),
    "mistral": Architecture("llama", interleaved=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
}


def run_gguf(model: str, out: Path, kind: str) -> dict[str, Any]:
    """Write OUT and, beside it, NAME.Modelfile for Ollama; returns what the check in a fresh process measured.

    Raises:
        UserError: gguf is not installed; an architecture, a rotary scaling or a tokenizer that has no place in the
            format or none that is known here; OUT is there; what was written is too far from the model.
    """
    from pipeline.lm.directory import check_directory, directory_of

    if kind not in TYPES:
        raise UserError(f"--type {kind!r}\n{nearest(kind, TYPES)}")
    if importlib.util.find_spec("gguf") is None:
        raise UserError("gguf is not installed\nway out: pip install headwater[gguf]")
    for file in (out, recipe_of(out)):
        if out.suffix != ".gguf" or file.exists():
            why = "is there" if file.exists() else "does not end in .gguf"
            raise UserError(f"{file} {why}\nexpected: a new file, .gguf")
    directory = directory_of(model)
    check_directory(directory)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial.gguf")
    try:
        stops = write(directory, partial, kind)
        measured = _checked(directory, partial, kind)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    recipe_of(out).write_text(modelfile(directory, out.name, stops), encoding="utf-8")
    return measured


def recipe_of(out: Path) -> Path:
    """Where Ollama's recipe of it is."""
    return out.with_suffix(".Modelfile")


def write(directory: Path, out: Path, kind: str) -> list[str]:
    """Write the file; returns the tokens at which an answer ends."""
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
    from gguf.quants import quantize

    from pipeline.lm.model import load_tokenizer

    config = json.loads((directory / "config.json").read_text())
    architecture = _architecture(config)
    tokenizer = load_tokenizer(directory)
    writer = GGUFWriter(out, architecture.name, use_temp_file=True)  # the whole model in no memory
    writer.add_name(directory.resolve().parent.name if directory.name == "export" else directory.name)
    writer.add_file_type(getattr(LlamaFileType, "ALL_F32" if kind == "f32" else f"MOSTLY_{TYPES[kind]}"))
    writer.add_quantization_version(2)
    _add_shape(writer, config)
    _add_tokenizer(writer, tokenizer, config["vocab_size"])
    stops = _add_stops(writer, directory, tokenizer)
    for name, array in _tensors(directory, config, architecture):
        stored = _stored_as(name, array, TYPES[kind])
        quantised = GGMLQuantizationType[stored]
        writer.add_tensor(name, quantize(array, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stops


def _architecture(config: dict[str, Any]) -> Architecture:
    name = config["model_type"]
    if name not in ARCHITECTURES:
        raise UserError(
            f"models of type {name} are not written as GGUF here\nexpected: {', '.join(ARCHITECTURES)}\n"
            "way out: llama.cpp's own convert_hf_to_gguf.py knows more of them"
        )
    if config.get("use_sliding_window") or (name == "mistral" and config.get("sliding_window")):
        raise UserError(f"sliding windows of {name} have no place in its GGUF\nway out: a model without them")
    return ARCHITECTURES[name]


def _add_shape(writer: Any, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(_rotary(config)["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])


def _rotary(config: dict[str, Any]) -> dict[str, Any]:
    """Base and scaling, where transformers 5 writes them or where earlier ones did.

    Raises:
        UserError: a scaling other than Llama 3's.
    """
    found = {"rope_theta": config.get("rope_theta", 10_000.0), **(config.get("rope_scaling") or {})}
    found |= config.get("rope_parameters") or {}
    kind = found.get("rope_type") or found.get("type") or "default"
    if kind not in ("default", "llama3"):
        raise UserError(f"rope_type {kind!r} is not written as GGUF here\nexpected: default or llama3")
    return found | {"rope_type": kind}


def _rotary_factors(config: dict[str, Any]) -> np.ndarray | None:
    """By what each frequency is divided, [head_dim / 2] (Llama 3.1's card); None: by nothing."""
    rotary = _rotary(config)
    if rotary["rope_type"] == "default":
        return None
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    waves = 2 * np.pi * rotary["rope_theta"] ** (np.arange(0, size, 2, dtype=np.float64) / size)
    low, high = rotary["low_freq_factor"], rotary["high_freq_factor"]
    smooth = (rotary["original_max_position_embeddings"] / waves - low) / (high - low)
    smooth = np.clip(smooth, 0, 1)  # 1: short waves, left as they are; 0: long ones, divided in whole
    return (1 / ((1 - smooth) / rotary["factor"] + smooth)).astype(np.float32)


def _tensors(
    directory: Path, config: dict[str, Any], architecture: Architecture
) -> Iterator[tuple[str, np.ndarray]]:
    """(llama.cpp's name, fp32 array) of every weight."""
    from gguf import MODEL_ARCH, get_tensor_name_map
    from safetensors import safe_open

    layers = config["num_hidden_layers"]
    names = get_tensor_name_map(MODEL_ARCH[architecture.name.upper()], layers)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config.get("num_key_value_heads")}
    if (factors := _rotary_factors(config)) is not None:
        yield "rope_freqs.weight", factors
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():
                name = names.get_name(key, try_suffixes=(".weight", ".bias"))
                if name is None:
                    raise UserError(f"{path}: {key} has no name in GGUF's {architecture.name}")
                part = key.split(".")[-2]
                tensor = file.get_tensor(key).float()
                if architecture.interleaved and part in heads:
                    tensor = interleaved(tensor, heads[part] or config["num_attention_heads"])
                yield name, tensor.numpy()


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query's or key's projection, [heads x head_dim, ...], so that the pairs that turn together,
    transformers' i and i + head_dim / 2, are neighbours."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _stored_as(name: str, array: np.ndarray, wanted: str) -> str:
    if array.ndim < 2 or name == "rope_freqs.weight":
        return "F32"
    blocks = wanted.startswith("Q")
    return "F16" if blocks and array.shape[-1] % BLOCK else wanted


def _add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerFast, size: int) -> None:
    """The vocabulary in the order of its ids; what the embeddings have beyond it are unused tokens."""
    from gguf import TokenType

    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    model = tree["model"]
    added = {token["id"]: token for token in tree["added_tokens"]}
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    pieces = bool(model.get("byte_fallback"))
    if model["type"] != "BPE":
        raise UserError(f"a tokenizer of kind {model['type']} is not written as GGUF here\nexpected: BPE")
    tokens, types = [], []
    for number in range(size):
        word = words.get(number)
        if word is None:
            kind = TokenType.UNUSED
        elif number in added:
            kind = TokenType.CONTROL if added[number]["special"] else TokenType.USER_DEFINED
        elif pieces and re.fullmatch("<0x[0-9A-F]{2}>", word):
            kind = TokenType.BYTE
        else:
            kind = TokenType.NORMAL
        if pieces and word is not None and word == model.get("unk_token"):
            kind = TokenType.UNKNOWN
        tokens.append(f"[PAD{number}]" if word is None else word)
        types.append(kind)
    if pieces:  # SentencePiece's: the sooner a piece was merged, the higher its score
        merged = {"".join(_pair(pair)): rank for rank, pair in reversed(list(enumerate(model["merges"])))}
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores([-float(merged.get(token, 0)) for token in tokens])
        writer.add_add_space_prefix(_adds_space(tree))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(cut_of(tree))
        writer.add_token_merges([" ".join(_pair(pair)) for pair in model["merges"]])
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    begins = tokenizer("a").input_ids
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and begins[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _pair(pair: str | list[str]) -> list[str]:
    return pair.split(" ") if isinstance(pair, str) else pair


def _adds_space(tree: dict[str, Any]) -> bool:
    return any(
        step.get("type") == "Prepend" or step.get("prepend_scheme") in ("first", "always")
        for part in (tree["normalizer"], tree["pre_tokenizer"])
        for step in ((part or {}).get("normalizers") or (part or {}).get("pretokenizers") or [part or {}])
    )


def cut_of(tree: dict[str, Any]) -> str:
    """llama.cpp's word for how a byte-level tokenizer cuts a text before it merges.

    Raises:
        UserError: a way for which none is known here.
    """
    top = tree["pre_tokenizer"] or {}
    found = []
    for step in top.get("pretokenizers") or [top]:
        if step.get("type") == "ByteLevel" and not step.get("add_prefix_space"):
            found.append(("bytes", "own" if step.get("use_regex", True) else ""))
        elif step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            found.append(("split", step["pattern"].get("Regex", "")))
        elif step.get("type") == "Digits":
            found.append(("digits", "one" if step["individual_digits"] else "runs"))
        else:
            found.append((str(step.get("type")), ""))
    names = CUTS.get(tuple(found), {})
    name = names.get(bool(tree["model"].get("ignore_merges")))
    normaliser = (tree["normalizer"] or {}).get("type")
    if name is None or normaliser not in (None, "NFC"):
        raise UserError(
            f"llama.cpp has no word that is known here for how this tokenizer cuts texts: {str(found)[:120]}\n"
            "expected: as Llama 3, Qwen2, GPT-2 or SmolLM do"
        )
    return name


def _add_stops(writer: Any, directory: Path, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    from transformers import GenerationConfig

    from pipeline.lm.prompts import stop_ids_from

    stops = sorted(stop_ids_from(GenerationConfig.from_pretrained(directory), tokenizer))
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else next(iter(stops), None)
    if eos is not None:
        writer.add_eos_token_id(eos)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if others := [stop for stop in stops if stop != eos]:
        writer.add_eot_token_id(others[0])  # where a turn ends
    return tokenizer.convert_ids_to_tokens(stops)


def modelfile(directory: Path, file: str, stops: list[str]) -> str:
    """What `ollama create NAME -f FILE.Modelfile` reads."""
    from pipeline.lm.model import load_tokenizer

    tokenizer, lines = load_tokenizer(directory), [f"FROM ./{file}"]
    template = go_template(tokenizer)
    if template is not None:
        lines.append(f'TEMPLATE """{template}"""')
    elif tokenizer.chat_template:
        lines.append("# Its chat template follows no turn-by-turn pattern: Ollama takes the file's own.")
    return "\n".join([*lines, *(f"PARAMETER stop {json.dumps(stop)}" for stop in stops)]) + "\n"


SYSTEM, ASKED, ANSWERED = "SYSTEM\u00a7WORDS", "ASKED\u00a7WORDS", "ANSWERED\u00a7WORDS"


def go_template(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """The chat template in Ollama's language; None: it is no text with system, question and answer at its places.

    Found by rendering, and taken only where two turns render as the pattern has them.
    """
    if not tokenizer.chat_template:
        return None

    def rendered(*turns: tuple[str, str], prompt: bool = False) -> str:
        messages = [{"role": role, "content": text} for role, text in turns]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)

    system, asked, answered = ("system", SYSTEM), ("user", ASKED), ("assistant", ANSWERED)
    try:
        opened = rendered(asked, prompt=True)
        before, between = opened.split(ASKED)
        after = rendered(asked, answered).removeprefix(opened).removeprefix(ANSWERED)
        twice = rendered(asked, answered, asked, prompt=True)
    except Exception:  # a template may refuse anything
        return None
    start = tokenizer.bos_token or ""
    bos = start if start and before.startswith(start) else ""
    turn = before.removeprefix(bos)
    if twice != f"{opened}{ANSWERED}{after}{turn}{ASKED}{between}":
        return None
    head = ""
    try:
        first, rest = rendered(system, asked, prompt=True).split(SYSTEM)
        if rest.endswith(f"{turn}{ASKED}{between}"):
            head = f"{{{{ if .System }}}}{first.removeprefix(bos)}{{{{ .System }}}}" + (
                rest.removesuffix(f"{turn}{ASKED}{between}") + "{{ end }}"
            )
    except Exception:  # one without a system turn
        pass
    return (
        f"{head}{{{{ if .Prompt }}}}{turn}{{{{ .Prompt }}}}{between}{{{{ end }}}}{{{{ .Response }}}}{after}"
    )


def _checked(directory: Path, file: Path, kind: str) -> dict[str, Any]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    inherited = os.environ.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([inherited] if inherited else [])])
    command = [
        sys.executable,
        "-m",
        "pipeline.publish.verify_gguf",
        str(directory.resolve()),
        str(file.resolve()),
        kind,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode not in (0, 2) or not done.stdout.strip():
        raise RuntimeError(f"the GGUF file could not be checked:\n{done.stderr[-2000:]}")
    verdict = json.loads(done.stdout.splitlines()[-1])
    if verdict["refused"]:
        raise UserError(
            f"the GGUF file is not the model: {'; '.join(verdict['refused'])[:300]}\nnothing was written"
        )
    return verdict["measured"]
