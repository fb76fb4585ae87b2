"""The trained decoder as its uses see it: documents drawn, and how likely documents are."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recipes.common.symbols.config import Decoding

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from pipeline.data.shards import Shard


@dataclass(frozen=True)
class Written:
    """text: what was drawn behind the prompt; ended: whether it ended itself."""

    text: str
    ended: bool


@dataclass(frozen=True)
class Decoder:
    """A model with its vocabulary."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast

    @classmethod
    def load(cls, directory: Path) -> Decoder:
        """From a model directory, on the GPU where there is one."""
        import torch

        from pipeline.lm.model import load_model, load_tokenizer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(load_model(directory).to(device).eval(), load_tokenizer(directory))

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], how: Decoding) -> Iterator[Written]:
        """One document to each prompt, in their order; each owes nothing to the others but rounding."""
        from pipeline.lm.decoding import sample_batch
        from pipeline.lm.prompts import stop_ids

        stops = stop_ids(self.model, self.tokenizer)
        for first in range(0, len(prompts), how.batch_size):
            part = slice(first, first + how.batch_size)
            ids = [self.ids(prompt) for prompt in prompts[part]]
            drawn = sample_batch(
                self.model,
                self.tokenizer,
                ids,
                how.max_new_tokens,
                how.temperature,
                how.top_p,
                list(seeds[part]),
            )
            for new in drawn:
                yield Written(self.tokenizer.decode(new, skip_special_tokens=True), new[-1] in stops)

    def ids(self, text: str) -> list[int]:
        """A document's beginning as training has it."""
        return [self.tokenizer.bos_token_id, *self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def nats(self, shard: Shard, documents: np.ndarray, window: int, batch: int = 16) -> np.ndarray:
        """-log p of each document, its end included, fp64 [D]; tokens see at least half a window before them."""
        from pipeline.scores.likelihood import document_windows, nll_sums, sums_by_document

        items = document_windows(shard, documents, window, max(1, window // 2))
        return sums_by_document(items, nll_sums(self.model, items, batch, False, io.StringIO()), documents)
