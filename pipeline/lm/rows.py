"""The rows of a training stage: several documents each, or one each where a model could not keep them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.data.packing import Alone, PackedConversations, PackedDocuments
from pipeline.lm.attention import kinds_of_layers, packs
from pipeline.lm.config import Finetune, Pretrain

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from pipeline.data.shards import Shard

Rows = PackedDocuments | PackedConversations | Alone


def rows_of(
    training: Pretrain | Finetune, config: PretrainedConfig, shards: tuple[Shard, Shard]
) -> tuple[Rows, Rows]:
    """The rows of (train, held out), the first in a new order each epoch, the other as the shard has them.

    Raises:
        UserError: as PackedConversations, and packing of what cannot be packed.
    """
    packed, length = packs(training.packing, config), training.sequence_length
    on_long = training.on_long if isinstance(training, Finetune) else None

    def rows(shard: Shard, seed: int | None) -> Rows:
        if not packed:
            return Alone(shard, length, seed, on_long, training.train_batch_size)
        if on_long is None:
            return PackedDocuments(shard, length, seed)
        return PackedConversations(shard, length, seed, on_long)

    return rows(shards[0], training.seed), rows(shards[1], None)


def said_of(rows: Rows, config: PretrainedConfig) -> str | None:
    """For the terminal, where rows are not packed: why, and what that costs."""
    if not isinstance(rows, Alone):
        return None
    kinds = ", ".join(kinds_of_layers(config.get_text_config()))
    why = "as asked" if packs("auto", config) else f"for its documents would meet in its {kinds} layers"
    return f"one document a row, {why}; {rows.padding:.0%} of the positions are padding, and no layer is compiled"
