"""Targets of sources by transformers' own generate, in batches whose shape a source alone decides.

Target i is therefore the same whatever is written beside it. B sources, S tokens, V vocabulary.
"""

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recipes.common.noise import uniform
from recipes.seq2seq.config import Decoding
from recipes.seq2seq.groups import STEP, padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 16  # sources a call


class Gumbel:
    """Turns the likeliest token into a drawn one: noise of (seed, step) is added to softened log-probabilities."""

    def __init__(self, seeds: list[int], temperature: float):
        self.seeds, self.temperature = seeds, temperature

    def __call__(self, input_ids: Tensor, scores_BV: Tensor) -> Tensor:
        coins = [uniform(seed, "token", input_ids.shape[1], scores_BV.shape[1:]) for seed in self.seeds]
        noise_BV = torch.from_numpy(np.stack(coins)).to(scores_BV).clamp(1e-20, 1 - 1e-7)
        return scores_BV / self.temperature - torch.log(-torch.log(noise_BV))


@torch.no_grad()
def written(
    model: "PreTrainedModel", sources: list[np.ndarray], pad: int, decoding: Decoding
) -> list[list[int]]:
    """Token ids of each target. sources: ids of each, with its end; pad: of the sources.

    Sources of one rounded length are written BATCH at a time, the last of them filled up with itself.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, source in enumerate(sources):
        by_length[-(-len(source) // STEP) * STEP].append(place)
    found: list[list[int]] = [[] for _ in sources]
    for length, places in sorted(by_length.items()):
        for start in range(0, len(places), BATCH):
            chunk = places[start : start + BATCH]
            full = [*chunk, *chunk[:1] * (BATCH - len(chunk))]
            rows = _written([sources[place] for place in full], length, full, model, pad, decoding)
            for place, row in zip(chunk, rows, strict=False):
                found[place] = row
    return found


def _written(
    sources: list[np.ndarray], length: int, places: list[int], model: Any, pad: int, decoding: Decoding
) -> list[list[int]]:
    from transformers import LogitsProcessorList

    ids_BS = np.full((len(sources), length), pad, np.int64)
    tight = padded(sources, pad)
    ids_BS[:, : tight.shape[1]] = tight
    inputs = torch.from_numpy(ids_BS).to(model.device)
    drawn = LogitsProcessorList()
    if decoding.temperature is not None:
        drawn.append(Gumbel([decoding.seed + place for place in places], decoding.temperature))
    found = model.generate(
        input_ids=inputs,
        attention_mask=(inputs != pad).long(),
        logits_processor=drawn,
        **arguments(decoding),
    )
    end = model.config.eos_token_id
    return [row[: row.index(end)] if end in row else row for row in found[:, 1:].tolist()]


def arguments(decoding: Decoding) -> dict[str, Any]:
    """What generate takes, whatever a model's own generation config says."""
    return {
        "num_beams": decoding.num_beams,
        "length_penalty": decoding.length_penalty,
        "no_repeat_ngram_size": decoding.no_repeat_ngram_size,
        "max_new_tokens": decoding.max_new_tokens,
        "do_sample": False,
        "early_stopping": False,
    }


def translated(
    model: "PreTrainedModel",
    tokenizers: "tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]",
    texts: list[str],
    decoding: Decoding,
) -> list[str]:
    """The target of each text."""
    source, target = tokenizers
    ids = [np.array(row) for row in source(texts, return_attention_mask=False)["input_ids"]]
    rows = written(model, ids, source.pad_token_id, decoding)
    return [text.strip() for text in target.batch_decode(rows, skip_special_tokens=True)]
