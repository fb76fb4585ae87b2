"""Conversations about pictures as a recipe: one turn, whose loss is a sum over taught tokens in nats.

Rows are not packed: each stands alone with its pictures. Shapes: B rows, L tokens.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.order import Order
from pipeline.train.recipe import Batch, Clock, Loss, Split, Sum
from recipes.captioning.captioner import IGNORED, CaptionNats
from recipes.captioning.model import begun, pretrained_config
from recipes.captioning.processor import FOLDER
from recipes.common.one_net import OneNet
from recipes.vision_chat.config import ZERO_STAGES, VisionChatConfig
from recipes.vision_chat.prepare import Talks
from recipes.vision_chat.rows import opened


class PicturedRows:
    """Implements pipeline.train.recipe.Split: tokens, which are taught, and the pictures of a row, by index.

    An item is {"ids": int64 (L,), "targets": uint8 (L,), "pictures": encoded files}. seed: None: in stored order.
    """

    def __init__(self, prepared: Path, tokens: Path, split: str, seed: int | None):
        self.talks = Talks(prepared, split)
        self.ids, self.targets, self.offsets, self.rows = (
            np.load(tokens / f"{split}.{name}.npy", mmap_mode="r")
            for name in ("ids", "targets", "offsets", "rows")
        )
        self.length = len(self.rows)
        self._order = Order(seed, self.length)

    def item(self, index: int) -> dict[str, Any]:
        number = self._order.row(index)
        begin, end = self.offsets[number], self.offsets[number + 1]
        return {
            "ids": self.ids[begin:end].astype(np.int64),
            "targets": np.array(self.targets[begin:end]),
            "pictures": self.talks.pictures(int(self.rows[number])),
        }


class Sight:
    """A processor for batches whose tokens are there already."""

    def __init__(self, directory: Path, longest_side: int | None):
        """directory: of the `tokenize` artifact, or of an export."""
        from transformers import AutoProcessor

        folder = directory / FOLDER if (directory / FOLDER).is_dir() else directory
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.longest_side = longest_side
        end = self.processor.tokenizer.pad_token_id
        self.pad = self.processor.tokenizer.eos_token_id if end is None else end

    def batch(
        self, rows: list[np.ndarray], pictures: list[list[Any]], left: bool = False
    ) -> dict[str, Tensor]:
        """Rows of ids in one matrix, filled up on the right or, for generation, on the left; and their pictures."""
        longest = max(map(len, rows))
        ids_BL = torch.full((len(rows), longest), self.pad or 0, dtype=torch.int64)
        mask_BL = torch.zeros_like(ids_BL)
        for row, ids in enumerate(rows):
            place = slice(longest - len(ids), None) if left else slice(0, len(ids))
            ids_BL[row, place], mask_BL[row, place] = torch.from_numpy(ids), 1
        shown = [[opened(one, self.longest_side) for one in each] for each in pictures]
        found = dict(self.processor.image_processor(images=shown, return_tensors="pt"))
        for name in ("token_type_ids", "mm_token_type_ids"):  # 1 where a token is a picture's
            if name in self.processor.model_input_names:
                found[name] = torch.tensor(self.processor.create_mm_token_type_ids(ids_BL.tolist()))
        wanted = {"input_ids", "attention_mask", *self.processor.model_input_names}
        given = found | {"input_ids": ids_BL, "attention_mask": mask_BL}
        return {name: value for name, value in given.items() if name in wanted}


class Chatter(OneNet):
    """Implements pipeline.train.recipe.Recipe."""

    turns = ("chatter",)
    ema = ("chatter",)
    zero_stages = ZERO_STAGES
    unit = "rows"
    flops_per_sample = (
        0.0  # transformers looks where a picture's tokens are, which no counting without values can
    )

    def __init__(self, config: VisionChatConfig, prepared: Path, tokens: Path):
        """prepared, tokens: the artifacts."""
        super().__init__(config, prepared)
        self.tokens, self.sight = tokens, Sight(tokens, config.data.longest_side)

    @cached_property
    def settings(self) -> Any:
        """The model's config."""
        return pretrained_config(self.config.model.pretrained)

    def data(self) -> Split:
        return PicturedRows(self.prepared, self.tokens, "train", self.training.seed)

    def held_out(self) -> Split:
        return PicturedRows(self.prepared, self.tokens, "held_out", None)

    def collate(self, items: list[dict[str, Any]]) -> Batch:  # type: ignore[override]
        given = self.sight.batch([item["ids"] for item in items], [item["pictures"] for item in items])
        labels_BL = torch.full_like(given["input_ids"], IGNORED)
        for row, item in enumerate(items):
            taught = torch.from_numpy(item["targets"]).bool()
            ids = given["input_ids"][row, : len(taught)]
            labels_BL[row, : len(taught)] = torch.where(taught, ids, IGNORED)
        return given | {"labels": labels_BL}

    def nets(self) -> dict[str, nn.Module]:
        model = begun(self.settings, self.config.model.pretrained, self.training.lora)
        if self.training.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return {"chatter": CaptionNats(model.train())}

    def count(self, turn: str, batch: Batch) -> int:
        """Taught tokens."""
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        nats = nets["chatter"](**batch).sum()
        return Loss(nats, {"nats": nats.detach()})

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        return {"loss": Sum(float(nets["chatter"](**batch).double().sum()), self.count("chatter", batch))}

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """Nothing: the page shows conversations at the end."""
        return {}
