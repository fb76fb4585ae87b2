"""The rows of a training stage: several documents each, or one each where a model could not keep them apart; of one
source or a mixture of several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import numpy as np

from pipeline.data.mixture import Mixture, stretches_of
from pipeline.data.packing import Alone, PackedConversations, PackedDocuments
from pipeline.lm.attention import kinds_of_layers, packs
from pipeline.lm.config import Finetune, Pretrain
from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from pipeline.data.shards import Shard

Rows = PackedDocuments | PackedConversations | Alone | Mixture


def rows_of(
    training: Pretrain | Finetune, config: PretrainedConfig, shards: tuple[Shard, Shard]
) -> tuple[Rows, Rows]:
    """The rows of (train, held out), the first in a new order each epoch, the other as the shard has them.

    Raises:
        UserError: as PackedConversations, packing of what cannot be packed, and as `_mixed`.
    """
    packed, length = packs(training.packing, config), training.sequence_length
    on_long = training.on_long if isinstance(training, Finetune) else None

    def rows(shard: Shard, seed: int | None) -> Rows:
        if not packed:
            return Alone(shard, length, seed, on_long, training.train_batch_size)
        if on_long is None:
            return PackedDocuments(shard, length, seed)
        return PackedConversations(shard, length, seed, on_long)

    if training.mixture:
        parts = shards[0].parts()
        mixed = [rows(part, training.seed + number) for number, part in enumerate(parts.values())]
        return _mixed(training, parts, mixed), rows(shards[1], None)
    return rows(shards[0], training.seed), rows(shards[1], None)


def _mixed(training: Pretrain | Finetune, parts: dict[str, Shard], rows: list[Rows]) -> Mixture:
    """The sources' rows in the shares that the recipe's phases say.

    Raises:
        UserError: a source has no training rows, or is read more often than max_source_epochs.
    """
    section, names = training.section, list(parts)
    if missing := {name for phase in training.mixture for name in phase.weights} - {*names}:
        raise UserError(
            f"{section}.mixture: {min(missing)} has no documents to train on\n"
            "expected: some that are not held out, dropped or filtered"
        )
    tokens, documents = (
        np.array([getattr(part, what) for part in parts.values()]) for what in ("tokens_total", "documents")
    )
    stretches = stretches_of(training.mixture, names, tokens, documents, training.train_batch_size)
    mixture = Mixture(rows, stretches, training.seed)
    most = training.max_source_epochs
    for name, times in epochs_of(mixture, training, names).items():
        if most is not None and times > most:
            raise UserError(
                f"{section}.mixture reads {name} {times:.2f} times\n"
                f"expected: at most {most:g} (max_source_epochs)\nway out: a smaller weight, or fewer steps"
            )
    return mixture


def epochs_of(mixture: Mixture, training: Pretrain | Finetune, names: list[str]) -> dict[str, float]:
    """How often each source is read by the end of training."""
    times = mixture.epochs(training.max_steps * training.train_batch_size)
    return dict(zip(names, times.tolist(), strict=True))


def say_mixture(rows: Rows, training: Pretrain | Finetune, shard: Shard, out: TextIO) -> dict[str, float]:
    """Tell how much of training each source is, and how often it is read; the latter as metrics."""
    if not isinstance(rows, Mixture):
        return {}
    total = training.max_steps * training.train_batch_size
    counts, found = rows.counts(total), epochs_of(rows, training, list(shard.sources))
    for (name, times), count in zip(found.items(), counts.tolist(), strict=True):
        out.write(f"  source {name}: {count / total:.3f} of {total:,} rows, read {times:.2f} times\n")
    return {f"epochs.{name}": times for name, times in found.items()}


def said_of(rows: Rows, config: PretrainedConfig) -> str | None:
    """For the terminal, where rows are not packed: why, and what that costs."""
    if not isinstance(rows, Alone):
        return None
    kinds = ", ".join(kinds_of_layers(config.get_text_config()))
    why = "as asked" if packs("auto", config) else f"for its documents would meet in its {kinds} layers"
    return f"one document a row, {why}; {rows.padding:.0%} of the positions are padding, and no layer is compiled"
