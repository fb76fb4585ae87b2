"""Where a model lies, and what its directory must hold before anything of it is loaded, looked at in bounded memory."""

import json
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError

IN_A_RUN = ("export", "reinforce/model", "prefer/model", "finetune/model", "pretrain/model", "base/model")
MOST_CONFIG = 16 << 20  # bytes of a JSON that describes a model; those of published ones are below 1 MB
MOST_TOKENIZER = 256 << 20  # of tokenizer.json; the largest published ones are below 40 MB
MOST_HEADER = 100 << 20  # of a safetensors header, as the library has it
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def model_directory(directory_or_run: Path) -> Path:
    """A model: the directory itself, or the last model that a run has made.

    Raises:
        UserError: there is none.
    """
    for directory in (directory_or_run, *(directory_or_run / name for name in IN_A_RUN)):
        if (directory / "config.json").is_file():
            return directory
    raise UserError(
        f"no model in {directory_or_run}\n"
        f"expected: a Hugging Face model directory, or a run's output directory with {' or '.join(IN_A_RUN)}"
    )


def directory_of(model: str) -> Path:
    """Where a model is: a directory, the last that a run has made, or one of the Hub, fetched or in the cache.

    Raises:
        UserError: it is none of these.
    """
    if Path(model).exists() or model.startswith((".", "/", "~")) or model.count("/") != 1:
        return model_directory(Path(model).expanduser())
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(model, ignore_patterns=[*PICKLES, "*.gguf", "*.onnx", "*.msgpack", "*.h5"]))
    except (OSError, ValueError, HFValidationError) as error:
        raise UserError(
            f"{model} is neither a directory here nor a model that this machine has or can reach: "
            f"{' '.join(str(error).split())[:120]}\nway out: a run's output directory, or `hf auth login`"
        ) from None


def check_directory(directory: Path) -> None:
    """Refuse a directory that does not hold a model with its tokenizer.

    Raises:
        UserError: no config, code of its own in place of an architecture, weights that are a pickle, missing or cut
            short, no tokenizer; files of absurd sizes.
    """
    config = _json(directory / "config.json", MOST_CONFIG)
    _refuse_code(directory, config)
    for file in _weights(directory):
        check_safetensors(file)
    if not any((directory / name).is_file() for name in TOKENIZERS):
        raise UserError(
            f"{directory} holds no tokenizer\nexpected: tokenizer.json, or one of its older forms"
        )
    if (directory / "tokenizer.json").is_file():
        _json(directory / "tokenizer.json", MOST_TOKENIZER)


def _json(path: Path, most: int) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path.parent} holds no {path.name}\nexpected: a Hugging Face model directory")
    size = path.stat().st_size
    if size > most:
        raise UserError(
            f"{path}: {size:,} bytes are more than such a file ever has\nexpected: at most {most:,}"
        )
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no settings\nexpected: a JSON object")
    return found


def _refuse_code(directory: Path, config: dict[str, Any]) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING:
        raise UserError(
            f"{directory} brings code of its own for {config.get('model_type')!r}, which transformers does not have: "
            "it is not run\nway out: a model of an architecture that this transformers knows"
        )


def _weights(directory: Path) -> list[Path]:
    index = directory / "model.safetensors.index.json"
    if (directory / "model.safetensors").is_file():
        return [directory / "model.safetensors"]
    if index.is_file():
        names = sorted({str(name) for name in _json(index, MOST_CONFIG).get("weight_map", {}).values()})
        if not names or any(Path(name).name != name for name in names):
            raise UserError(f"{index} names no files of its own directory")
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise UserError(
                f"{directory} lacks {missing[0]}, which its index names: {len(missing)} of {len(names)} files"
            )
        return [directory / name for name in names]
    pickles = sorted(path.name for pattern in PICKLES for path in directory.glob(pattern))
    if pickles:
        raise UserError(
            f"{directory} holds its weights in {pickles[0]}, a pickle, which may run any code and is not read\n"
            "way out: the same model's model.safetensors"
        )
    raise UserError(f"{directory} holds no weights\nexpected: model.safetensors, or its parts with an index")


def check_safetensors(path: Path) -> None:
    """Raises UserError where a file's header does not fit its bytes; reads nothing but the header."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MOST_HEADER, size - 8):
            raise UserError(
                f"{path}: its header says {length:,} bytes, and the file has {size:,}: it is damaged"
            )
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError, IndexError):
            raise UserError(f"{path}: its header cannot be read: it is damaged") from None
    if 8 + length + max(ends, default=0) != size:
        raise UserError(
            f"{path}: its tensors end at byte {8 + length + max(ends, default=0):,} of {size:,}: it is cut short"
        )
