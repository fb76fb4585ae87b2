"""The one decoding loop that samples, chat and evaluation share.

Shape letters: B prompts, T positions, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.lm.model import positions_of
from pipeline.lm.prompts import stop_ids
from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast


def choose(logits_V: Tensor, temperature: float | None, top_p: float, generator: Generator | None) -> int:
    """The next token: the likeliest where `temperature` is None, else one drawn from the nucleus of mass `top_p`.

    The draw is a race of exponential clocks, one a token id: rounding of the logits flips it only where two tokens
    are all but tied. Nucleus: the fewest likeliest tokens that reach `top_p` (Holtzman et al., arXiv:1904.09751).
    """
    import torch

    if temperature is None:
        return int(logits_V.argmax())
    probabilities_V = (logits_V.double() / temperature).softmax(-1)
    if top_p < 1:
        descending_V, order_V = probabilities_V.sort(descending=True, stable=True)
        before_V = descending_V.cumsum(-1) - descending_V
        probabilities_V[order_V[before_V >= top_p]] = 0
    clocks_V = torch.empty_like(probabilities_V).exponential_(generator=generator)
    return int((probabilities_V / clocks_V).argmax())


def stream(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float | None,
    top_p: float,
    seeds: Sequence[int],
    stop: frozenset[int],
) -> Iterator[list[int | None]]:
    """Yield the next token of each prompt, None for those that have ended: after a stop token (which is yielded), or
    at `max_new_tokens` or the model's last position.

    Row i has positions, mask and generator of its own: other rows change it by the rounding of the matrix products.

    Raises:
        UserError: a prompt is empty or leaves the model no position to write to.
    """
    import torch

    room = [_room(model.config, len(prompt), max_new_tokens) for prompt in prompts]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    ids_BT, mask_BT = (tensor.to(model.device) for tensor in left_padded(prompts))
    cache = None
    for done in range(max(room)):
        output = _forward(model, ids_BT, mask_BT, cache)
        cache, logits_BV = output.past_key_values, output.logits[:, -1].float().cpu()
        rows = zip(logits_BV, generators, strict=True)
        drawn = [choose(logits_V, temperature, top_p, generator) for logits_V, generator in rows]
        yield [token if done < limit else None for token, limit in zip(drawn, room, strict=True)]
        room = [
            min(limit, done + 1) if token in stop else limit for token, limit in zip(drawn, room, strict=True)
        ]
        if all(limit <= done + 1 for limit in room):
            return
        ids_BT = torch.tensor(drawn, device=model.device)[:, None]
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
) -> list[list[int]]:
    """The new tokens of each prompt, its stop token included where one came.

    Args:
        tokenizer: names the stop tokens beside the model's own; None: the model's own alone.
        prompts: ids, any lengths.
        temperature: None: greedy; `top_p` and `seeds` then change nothing.
        seeds: one a prompt, whatever batch it is in.

    Raises:
        UserError: as `stream`.
    """
    found: list[list[int]] = [[] for _ in prompts]
    stop = stop_ids(model, tokenizer)
    for tokens in stream(model, prompts, max_new_tokens, temperature, top_p, seeds, stop):
        for ids, token in zip(found, tokens, strict=True):
            ids += [] if token is None else [token]
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
