"""The rows of judged answers that preference tuning takes, as the stages open them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.run.errors import UserError
from pipeline.run.stage import Context

if TYPE_CHECKING:
    import numpy as np

    from pipeline.data.pairs import PackedAnswers
    from pipeline.data.shards import Shard

SPLITS = ("train", "held_out")


def rows(
    context: Context,
    base: Path,
    split: str,
    seed: int | None = None,
    reference: np.ndarray | None = None,
) -> PackedAnswers:
    """The rows of a split as training takes them.

    Raises:
        UserError: the answers were made with another tokenizer than the model's; they are of another kind than the
            loss learns from; as PackedAnswers.
    """
    from pipeline.data.pairs import PackedAnswers
    from pipeline.data.shards import Shard, tokenizer_digest
    from pipeline.lm.attention import packs
    from pipeline.lm.model import config_of

    training = context.config.prefer or context.config.reward_model
    shard = Shard.open(context.inputs["tokenize"], f"preferences.{split}", tokenizer_digest(base))
    _check_kind(shard, training.paired)
    packed = packs(training.packing, config_of(base))
    return PackedAnswers(
        shard, reference, training.sequence_length, seed, training.on_long, packed, training.section
    )


def _check_kind(shard: Shard, paired: bool) -> None:
    from pipeline.data.kinds import FOREIGN

    if bool((shard.labels == FOREIGN).any()) == paired:
        have, wants = ("verdicts", "pairs") if paired else ("pairs", "verdicts on single answers")
        way = "prefer.loss_type: kto" if paired else "prefer.loss_type: sigmoid, or a column label"
        raise UserError(f"the loss learns from {wants}, and the preferences are {have}\nway out: {way}")
