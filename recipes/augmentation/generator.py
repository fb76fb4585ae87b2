"""A language model of labelled rows, trained in this process: it writes a row of the class that it is asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recipes.augmentation.config import AugmentationConfig

if TYPE_CHECKING:
    from recipes.common.symbols.model import Decoder

Labelled = tuple[str, int]  # a text and its class


@dataclass(frozen=True)
class Generator:
    """classes: their names, by which rows are asked for."""

    decoder: Decoder
    classes: tuple[str, ...]
    config: AugmentationConfig

    def draw(self, labels: Sequence[int], seed: int) -> list[str]:
        """A text to each label; empty where it wrote none, or did not come to an end."""
        prompts = [asking(self.classes[label]) for label in labels]
        written = self.decoder.draw(
            prompts, [seed + place for place in range(len(labels))], self.config.decoding
        )
        return [" ".join(one.text.split()) if one.ended else "" for one in written]


def asking(name: str) -> str:
    """What stands before a row of the class."""
    return f"{name}:"


def learnt(
    rows: Sequence[Labelled],
    classes: tuple[str, ...],
    config: AugmentationConfig,
    seed: int,
    base: Path | None,
) -> Generator:
    """A generator trained on `rows` and nothing else.

    base: the model directory that it begins from; None: from scratch. Its tokenizer is then learnt from these rows
    too: what other rows are made of must not show.
    """
    from pipeline.data.packing import PackedDocuments
    from pipeline.data.shards import Shard
    from pipeline.lm.model import load_model, load_tokenizer, load_weights
    from pipeline.lm.recipe import LanguageModel
    from recipes.common.symbols.model import Decoder
    from recipes.common.training import trained_here

    training = config.train.model_copy(update={"seed": config.train.seed + seed})
    texts = [f"{asking(classes[label])} {text}" for text, label in rows]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(base or _tokenizer(texts, config, Path(folder)))
        build = _fresh(config, tokenizer) if base is None else lambda: load_model(base)
        _write(Path(folder), tokenizer, texts)
        packed = PackedDocuments(
            Shard.open(Path(folder), "documents"), training.sequence_length, training.seed
        )
        training = training.over(packed.length)
        recipe = LanguageModel(training, build, packed, None, training.sequence_length)
        trainer = trained_here(recipe)
        weights = trainer.weights("model", ema=bool(training.ema_decay))
    model = build()
    load_weights(model, {name.removeprefix("model."): tensor for name, tensor in weights.items()})
    return Generator(Decoder(model.to(trainer.runtime.device).eval(), tokenizer), classes, config)


def _tokenizer(texts: list[str], config: AugmentationConfig, folder: Path) -> Path:
    """The directory of a tokenizer that knows nothing but `texts`."""
    from tokenizer.files import save
    from tokenizer.train import SMALLEST_VOCABULARY, supported

    save(supported(texts, max(SMALLEST_VOCABULARY, config.curve.vocabulary_size)), folder, None)
    return folder


def _fresh(config: AugmentationConfig, tokenizer: Any) -> Any:
    from pipeline.lm.model import build_config, special_ids
    from pipeline.pretrain import fresh

    settings = build_config(
        config.model, len(tokenizer), special_ids(tokenizer), config.train.sequence_length
    )
    return lambda: fresh(config.train, config.model.attention, settings)


def _write(folder: Path, tokenizer: Any, texts: list[str]) -> None:
    """The shard `documents` of the texts, each between its beginning and its end."""
    from pipeline.data.shards import ShardWriter

    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    found = tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = [np.array([*bos, *ids, tokenizer.eos_token_id], np.int64) for ids in found]
    lengths = np.array([len(row) for row in rows])
    with ShardWriter(folder, "documents", len(tokenizer), "") as writer:
        writer.add(np.concatenate(rows), lengths, np.array([len(text.encode()) for text in texts]))
