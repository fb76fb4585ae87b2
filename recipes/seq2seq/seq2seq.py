"""The encoder-decoder as a recipe: one turn, whose loss is a sum over target tokens in nats."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from pipeline.lm.config import Lora
from pipeline.run.errors import UserError
from pipeline.train.recipe import Batch, Clock, Loss, Split, Sum
from recipes.common.one_net import OneNet
from recipes.seq2seq.config import Grouped, Seq2SeqConfig
from recipes.seq2seq.groups import Groups, PairedTexts, collated
from recipes.seq2seq.model import TokenNats, begun, check_apart
from recipes.seq2seq.packed import PackedPairs, of_texts
from recipes.seq2seq.packed import collated as stacked
from recipes.seq2seq.spans import Corrupted, CorruptedTexts, both_sides

if TYPE_CHECKING:
    from transformers import PretrainedConfig

ZERO_STAGES = (1, 2, 3)
PLANNED = 32  # tokens of a side that a plan counts with


class Seq2Seq(OneNet):
    """Implements pipeline.train.recipe.Recipe, of the stage `train` or, with `pretrain`, of span corruption."""

    turns = ("seq2seq",)
    ema = ("seq2seq",)
    zero_stages = ZERO_STAGES
    unit = "groups"

    def __init__(
        self,
        config: Seq2SeqConfig,
        training: Grouped,
        settings: "PretrainedConfig",
        tokens: Path,
        pads: tuple[int, int],
        start: Path | None = None,
        lora: Lora | None = None,
        sentinels: tuple[int, ...] = (),
    ):
        """settings: of the model; tokens: the artifact of the stage tokenize; pads: ids that pad sources and targets;
        start: the artifact of the stage before this one; sentinels: ids that stand for gaps, where those are learnt."""
        super().__init__(config, tokens)
        self.training, self.settings, self.pads = training, settings, pads
        self.optimizers = {"seq2seq": training}
        self.start, self.lora, self.sentinels = start, lora, sentinels

    def nets(self) -> dict[str, nn.Module]:
        model = begun(self.config, self.settings, self.start, self.lora)
        if self.training.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        net = TokenNats(model.train(), *self.pads)
        if self.training.packing and not next(model.parameters()).is_meta:
            check_apart(net)
        if self.training.torch_compile:
            net.compile()
        return {"seq2seq": net}

    def blank(self, count: int) -> Batch:
        """Groups of pairs of PLANNED tokens, or of as many as may be; or of full rows."""
        if self.training.packing:
            length = self.training.max_length
            rows = count * max(1, self.training.group_tokens // length)
            owners = torch.arange(length, dtype=torch.int32).expand(rows, -1) // PLANNED
            sides = {
                name: torch.ones(rows, length, dtype=torch.int64) + pad for name, pad in self._columns()
            }
            return sides | {"source_pairs": owners, "target_pairs": owners}
        length = min(PLANNED, self.training.max_length)
        pairs = count * max(1, self.training.group_tokens // length)
        return {name: torch.ones(pairs, length, dtype=torch.int64) + pad for name, pad in self._columns()}

    def _columns(self) -> Any:
        return zip(("source", "target"), self.pads, strict=True)

    def data(self) -> Split:
        return self._split("train", self.training.seed)

    def held_out(self) -> Split:
        return self._split("held_out", None)

    def _split(self, name: str, seed: int | None) -> Split:
        pairs = PairedTexts.open(self.prepared, name)
        if self.sentinels:
            texts = both_sides(pairs)
            pairs = PairedTexts(texts, texts)
        rows = np.flatnonzero(pairs.lengths <= self.training.max_length)
        if not len(rows):
            raise UserError(
                f"no {name} pair has sides of at most {self.training.max_length} tokens\nway out: a larger max_length"
            )
        if self.training.packing:
            return self._packed(pairs, rows, seed)
        groups = Groups(pairs, rows, self.training.group_tokens, self.pads, seed)
        return Corrupted(groups, *self._noise()) if self.sentinels else groups

    def _noise(self) -> tuple[list[int], float, float, int]:
        """What Corrupted and CorruptedTexts are told."""
        noise = self.config.pretrain
        return list(self.sentinels), noise.noise_density, noise.mean_span, self.training.seed

    def _packed(self, pairs: PairedTexts, rows: np.ndarray, seed: int | None) -> PackedPairs:
        lengths, pair_of = of_texts(pairs, rows)
        if self.sentinels:
            texts = CorruptedTexts(pairs.source, rows, *self._noise())
            lengths, pair_of = texts.lengths, texts.pair
        length = self.training.max_length
        return PackedPairs(
            lengths, pair_of, length, max(1, self.training.group_tokens // length), self.pads, seed
        )

    def collate(self, items: list[dict[str, np.ndarray]]) -> Batch:  # type: ignore[override]
        return stacked(items) if self.training.packing else collated(items, self.pads)

    def count(self, turn: str, batch: Batch) -> int:
        """Target tokens."""
        return int((batch["target"] != self.pads[1]).sum())

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        """Label smoothing takes a share of each target and spreads it over all tokens (arXiv:1512.00567, section 7)."""
        nats, even = (part.sum() for part in nets["seq2seq"](*_sides(batch)))
        share = self.training.label_smoothing
        return Loss((1 - share) * nats + share * even, {"nats_per_token": nats.detach()})

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        nats, _ = nets["seq2seq"](*_sides(batch))
        return {"nats_per_token": Sum(float(nats.sum(dtype=torch.float64)), self.count("seq2seq", batch))}

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """Nothing while it trains: what it writes is shown by the stage `sample`."""
        return {}


def _sides(batch: Batch) -> list[torch.Tensor]:
    """The arguments of TokenNats."""
    return [batch[name] for name in ("source", "target", "source_pairs", "target_pairs") if name in batch]
