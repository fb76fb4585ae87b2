"""The one decoding loop that samples, chat and evaluation share.

Shape letters: B prompts, T positions, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.lm.model import positions_of
from pipeline.lm.prompts import stop_ids
from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Limits:
    """What narrows the choice of a token beside temperature and nucleus, by transformers' names and in its order.

    top_k: the likeliest tokens that stay; 0: all. min_p: those less likely than this share of the likeliest go
    (arXiv:2407.01082). repetition_penalty: what was there before is made this much less likely (arXiv:1909.05858).
    """

    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def penalised(self, logits_BV: Tensor, seen: Sequence[Sequence[int]]) -> Tensor:
        """The logits, those of tokens that a row has `seen` divided by the penalty, or multiplied below 0."""
        import torch

        if self.repetition_penalty == 1.0:
            return logits_BV
        logits_BV = logits_BV.clone()
        for row_V, ids in zip(logits_BV, seen, strict=True):
            places = torch.tensor(sorted({*ids}))
            found = row_V[places]
            row_V[places] = torch.where(
                found < 0, found * self.repetition_penalty, found / self.repetition_penalty
            )
        return logits_BV


UNLIMITED = Limits()


def probabilities(
    logits_BV: Tensor, temperature: float, top_p: float, limits: Limits = UNLIMITED
) -> Tensor:
    """What each token is drawn with, float64 [B, V], up to a factor a row; 0 of those that are left out.

    Nucleus: the fewest likeliest tokens that reach `top_p` (Holtzman et al., arXiv:1904.09751).
    """
    import torch

    logits_BV = logits_BV.double() / temperature
    if 0 < limits.top_k < logits_BV.shape[-1]:
        least_B1 = logits_BV.topk(limits.top_k).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, -torch.inf)
    probabilities_BV = logits_BV.softmax(-1)
    if top_p < 1:
        descending_BV, order_BV = probabilities_BV.sort(descending=True, stable=True)
        before_BV = descending_BV.cumsum(-1) - descending_BV
        kept_BV = descending_BV.masked_fill(before_BV >= top_p, 0)
        probabilities_BV = torch.zeros_like(kept_BV).scatter_(-1, order_BV, kept_BV)
    if limits.min_p:
        most_B1 = probabilities_BV.amax(-1, keepdim=True)
        probabilities_BV = probabilities_BV.masked_fill(probabilities_BV < limits.min_p * most_B1, 0)
    return probabilities_BV


def choose(
    logits_BV: Tensor,
    temperature: float | None,
    top_p: float,
    noise: Sequence[Generator],
    limits: Limits = UNLIMITED,
) -> list[int]:
    """The next token of each row: the likeliest where `temperature` is None, else one drawn by the row's own generator,
    on the CPU.

    The draw is a race of exponential clocks, one a token id: rounding of the logits flips it only where two tokens
    are all but tied.
    """
    import torch

    if temperature is None:
        return logits_BV.argmax(-1).tolist()
    probabilities_BV = probabilities(logits_BV, temperature, top_p, limits)
    clocks_BV = torch.empty(probabilities_BV.shape, dtype=torch.double)
    for clocks_V, generator in zip(clocks_BV.numpy(), noise, strict=True):
        generator.standard_exponential(out=clocks_V)  # numpy's is several times faster than torch's
    return (probabilities_BV / clocks_BV).argmax(-1).tolist()


def stream(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float | None,
    top_p: float,
    seeds: Sequence[int],
    stop: frozenset[int],
    ended: Container[int] = (),
    limits: Limits = UNLIMITED,
) -> Iterator[list[int | None]]:
    """Yield the next token of each prompt, None for those that have ended: after a stop token (which is yielded), at
    `max_new_tokens` or the model's last position, or once the caller has put the row into `ended`.

    Row i has positions, mask and generator of its own: other rows change it by the rounding of the matrix products.

    Raises:
        UserError: a prompt is empty or leaves the model no position to write to.
    """
    import numpy as np
    import torch

    from pipeline.lm.cache import keep, roomy

    room = [_room(model.config, len(prompt), max_new_tokens) for prompt in prompts]
    noise = [np.random.Generator(np.random.SFC64(seed)) for seed in seeds]
    ids_BT, mask_BT = (tensor.to(model.device) for tensor in left_padded(prompts))
    cache, fed = None, list(range(len(prompts)))  # the rows that the net still reads
    seen = [[*map(int, prompt)] for prompt in prompts]
    for done in range(max(room)):
        output = _forward(model, ids_BT, mask_BT, cache)
        cache = output.past_key_values if done else roomy(output.past_key_values, ids_BT.shape[1] + max(room))
        logits_BV = output.logits[:, -1].float().cpu()
        logits_BV = limits.penalised(logits_BV, [seen[row] for row in fed])
        tokens = choose(logits_BV, temperature, top_p, [noise[row] for row in fed], limits)
        drawn = dict(zip(fed, tokens, strict=True))
        for row, token in drawn.items():
            seen[row].append(token)
        yield [drawn[row] if done < limit else None for row, limit in enumerate(room)]
        over = [drawn.get(row) in stop or row in ended for row in range(len(room))]
        room = [min(limit, done + 1) if end else limit for end, limit in zip(over, room, strict=True)]
        going = [place for place, row in enumerate(fed) if room[row] > done + 1]
        if not going:
            return
        # Rows that have ended cost as much as the others: worth a copy of the cache once they are half.
        if 2 * len(going) <= len(fed) and keep(cache, going):
            fed, mask_BT = [fed[place] for place in going], mask_BT[going]
        ids_BT = torch.tensor([drawn[row] for row in fed], device=model.device)[:, None]
        mask_BT = torch.cat([mask_BT, torch.ones_like(ids_BT)], dim=1)


def _room(config: PretrainedConfig, prompt: int, max_new_tokens: int) -> int:
    limit = positions_of(config)
    if prompt == 0 or (limit is not None and prompt >= limit):
        raise UserError(
            f"a prompt of {prompt} tokens, and the model has {limit} positions\nexpected: 1 to {limit} - 1"
        )
    return max_new_tokens if limit is None else min(max_new_tokens, limit - prompt)


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(ids, mask), int64 [B, T]: each prompt ends at the last position, zeros and mask 0 before it."""
    import torch

    longest = max(len(prompt) for prompt in prompts)
    ids = [[0] * (longest - len(prompt)) + [*map(int, prompt)] for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def _forward(model: PreTrainedModel, ids_BT: Tensor, mask_BT: Tensor, cache: Any) -> Any:
    """One step with the KV cache; positions count what the mask lets through."""
    import torch

    limit = positions_of(model.config)
    positions_BT = (mask_BT.cumsum(-1) - 1)[:, -ids_BT.shape[1] :]
    # Rows that have ended are fed on beside those that have not: they must not run past a table of positions.
    positions_BT = positions_BT.clamp(0, None if limit is None else limit - 1)
    with torch.inference_mode():
        return model(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )


def sample_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast | None,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float | None,
    top_p: float,
    seeds: Sequence[int],
    enough: Callable[[int, list[int]], bool] | None = None,
    limits: Limits = UNLIMITED,
) -> list[list[int]]:
    """The new tokens of each prompt, its stop token included where one came.

    Args:
        tokenizer: names the stop tokens beside the model's own; None: the model's own alone.
        prompts: ids, any lengths.
        temperature: None: greedy; `top_p` and `seeds` then change nothing.
        seeds: one a prompt, whatever batch it is in.
        enough: of a prompt's place and its new tokens, whether the rest is wanted no more.

    Raises:
        UserError: as `stream`.
    """
    found: list[list[int]] = [[] for _ in prompts]
    stop, ended = stop_ids(model, tokenizer), set[int]()
    for tokens in stream(model, prompts, max_new_tokens, temperature, top_p, seeds, stop, ended, limits):
        for row, (ids, token) in enumerate(zip(found, tokens, strict=True)):
            if token is not None:
                ids.append(token)
                if enough is not None and enough(row, ids):
                    ended.add(row)
    return found


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast | None,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float | None,
    top_p: float,
    seed: int,
) -> list[int]:
    """`sample_batch` of one prompt."""
    return sample_batch(model, tokenizer, [prompt_ids], max_new_tokens, temperature, top_p, [seed])[0]
