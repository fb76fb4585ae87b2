"""Words from pictures as a recipe: one turn, whose loss is a sum over the tokens of captions in nats.

Tokens of the picture and of the prompt are never supervised. Shapes: B pictures, L tokens, V entries of the vocabulary.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.train.recipe import Batch, Clock, Loss, Split, Sum
from recipes.captioning.config import ZERO_STAGES, CaptioningConfig
from recipes.captioning.model import begun, config_of, pretrained_config
from recipes.captioning.processor import IMAGE, Eyes, encoded
from recipes.common.images.dataset import ImageSplit, PreparedImages
from recipes.common.one_net import OneNet

IGNORED = -100


class Pairs:
    """Implements pipeline.train.recipe.Split: a picture and the tokens of its caption, by index."""

    def __init__(self, images: ImageSplit, captions: list[np.ndarray]):
        self.images, self.captions, self.length = images, captions, images.length

    def item(self, index: int) -> dict[str, Any]:
        found = self.images.item(index)
        return {"image": found["image"], "caption": self.captions[int(found["label"])]}


class CaptionNats(nn.Module):
    """The model with its loss inside, so that an engine wraps one module."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, labels: Tensor, **given: Tensor) -> Tensor:
        """Each token's nats, fp32 (B (L - 1),), 0 where `labels` is IGNORED."""
        logits_BLV = self.model(**given).logits[:, :-1].float()
        return F.cross_entropy(
            logits_BLV.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
        )


class Captioner(OneNet):
    """Implements pipeline.train.recipe.Recipe."""

    turns = ("captioner",)
    ema = ("captioner",)
    zero_stages = ZERO_STAGES
    unit = "images"
    flops_per_sample = (
        0.0  # transformers looks where the picture's tokens are, which no counting without values can
    )

    def __init__(self, config: CaptioningConfig, prepared: Path, processor: Path):
        """prepared, processor: the artifacts."""
        super().__init__(config, prepared)
        self.eyes = Eyes(processor)

    @cached_property
    def settings(self) -> Any:
        """The model's config."""
        model, data = self.config.model, self.config.data
        if model.pretrained:
            return pretrained_config(model.pretrained)
        tokenizer = self.eyes.processor.tokenizer
        image = tokenizer.convert_tokens_to_ids(IMAGE)
        return config_of(model, data.image_size, data.channels, len(tokenizer), image)

    def data(self) -> Split:
        return self._split("train", self.training.seed)

    def held_out(self) -> Split:
        return self._split("held_out", None)

    def _split(self, name: str, seed: int | None) -> Split:
        images = PreparedImages.open(self.prepared, name)
        most = self.training.max_length
        captions = [np.array(ids[:most]) for ids in encoded(self.eyes.processor, list(images.classes))]
        return Pairs(ImageSplit(images, seed), captions)

    def collate(self, items: list[dict[str, Any]]) -> Batch:  # type: ignore[override]
        """Prompts and captions in rows that padding fills up on the right; what belongs to pictures in their order."""
        found = self.eyes([item["image"] for item in items])
        prompts_BP, pad = found.pop("input_ids"), self.eyes.processor.tokenizer.pad_token_id
        longest = max(len(item["caption"]) for item in items)
        rows, before = len(items), prompts_BP.shape[1]
        ids_BL = torch.full((rows, before + longest), pad or 0, dtype=torch.int64)
        labels_BL = torch.full_like(ids_BL, IGNORED)
        mask_BL = torch.zeros_like(ids_BL)
        ids_BL[:, :before], mask_BL[:, :before] = prompts_BP, 1
        for row, item in enumerate(items):
            end = before + len(item["caption"])
            ids_BL[row, before:end] = torch.from_numpy(item["caption"])
            labels_BL[row, before:end] = ids_BL[row, before:end]
            mask_BL[row, :end] = 1
        return found | {"input_ids": ids_BL, "attention_mask": mask_BL, "labels": labels_BL}

    def nets(self) -> dict[str, nn.Module]:
        model = begun(self.settings, self.config.model.pretrained, self.training.lora)
        if self.training.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        return {"captioner": CaptionNats(model.train())}

    def count(self, turn: str, batch: Batch) -> int:
        """Tokens of captions."""
        return int((batch["labels"] != IGNORED).sum())

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        nats = nets["captioner"](**batch).sum()
        return Loss(nats, {"nats": nats.detach()})

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        return {"loss": Sum(float(nets["captioner"](**batch).double().sum()), self.count("captioner", batch))}

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """Nothing: the page shows captions beside pictures at the end."""
        return {}
