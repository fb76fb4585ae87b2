"""What a decoder makes of one text: surprise, attention, what each layer would say, what a prediction is owed to.

Shapes: T tokens, V entries of the vocabulary, N layers, H heads, D numbers of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from pipeline.data.shards import Shard

SHOWN = 5  # likeliest tokens that are kept of each place
FIRST_NODES, MOST_NODES = 32, 512  # points of the path that gradients are taken at
COMPLETE = 0.01  # of the change, by which the parts may miss it
REPEATED = 24  # random tokens that are read twice, for the induction score
FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "embedding_norm")


@dataclass(frozen=True)
class Reading:
    """surprisal: nats of each token given those before it, fp64 (T - 1,); rank: how many are likelier, int (T - 1,);
    likely: the ids and probabilities of the SHOWN likeliest at each place, (T - 1, SHOWN) both; attention: fp32 (N, H,
    T, T), of layers that attend; lens: after each layer, what the head would say: ids and probabilities, (N, T) both.
    """

    surprisal: np.ndarray
    rank: np.ndarray
    likely: tuple[np.ndarray, np.ndarray]
    attention: np.ndarray
    lens: tuple[np.ndarray, np.ndarray]


@torch.no_grad()
def read(model: PreTrainedModel, ids_T: Tensor) -> Reading:
    """One forward of a text. The model's attention must be `eager`, which alone gives its weights."""
    found = model(input_ids=ids_T[None], use_cache=False, output_attentions=True, output_hidden_states=True)
    log_TV = found.logits[0].float().log_softmax(dim=-1)[:-1]
    own_T = log_TV.gather(1, ids_T[1:, None])
    top = log_TV.topk(min(SHOWN, log_TV.shape[1]), dim=1)
    attention = [layer[0].float().cpu() for layer in found.attentions or () if layer is not None]
    return Reading(
        surprisal=-own_T[:, 0].double().cpu().numpy(),
        rank=(log_TV > own_T).sum(dim=1).cpu().numpy(),
        likely=(top.indices.cpu().numpy(), top.values.exp().cpu().numpy()),
        attention=torch.stack(attention).numpy() if attention else np.zeros((0, 0, len(ids_T), len(ids_T))),
        lens=_lens(model, found.hidden_states),
    )


def _lens(model: PreTrainedModel, states: tuple[Tensor, ...]) -> tuple[np.ndarray, np.ndarray]:
    """What the head says of each layer's output, through the last normalisation (nostalgebraist, 2020).

    states: of the embeddings and of each layer; the last one is normalised already.
    """
    norm, head = final_norm(model), model.get_output_embeddings()
    ids, shares = [], []
    for place, state_1TD in enumerate(states[1:], 1):
        ready = state_1TD if norm is None or place == len(states) - 1 else norm(state_1TD)
        best = head(ready)[0].float().softmax(dim=-1).max(dim=-1)
        ids.append(best.indices.cpu().numpy())
        shares.append(best.values.cpu().numpy())
    return np.stack(ids), np.stack(shares)


def final_norm(model: PreTrainedModel) -> Any:
    """The normalisation in front of the head, by the names that transformers gives it; None where there is none."""
    inner = model.base_model
    for part in (inner, getattr(inner, "decoder", None), getattr(inner, "model", None)):
        for name in FINAL_NORMS:
            if hasattr(part, name):
                return getattr(part, name)
    return None


def rollout(attention_NHTT: np.ndarray) -> np.ndarray:
    """How much of each place is left in each later one, through all layers, (T, T) (arXiv:2005.00928, section 3)."""
    through_TT = np.eye(attention_NHTT.shape[-1])
    for layer_HTT in attention_NHTT:
        mixed_TT = 0.5 * layer_HTT.mean(axis=0) + 0.5 * np.eye(len(through_TT))
        through_TT = mixed_TT / mixed_TT.sum(axis=-1, keepdims=True) @ through_TT
    return through_TT


@dataclass(frozen=True)
class Owed:
    """parts: what each token before adds to the log probability of `target`, fp64 (T,); change: from the baseline's log
    probability to the text's; gap: by how much the parts miss it, as a share; nodes: points of the path."""

    parts: np.ndarray
    target: int
    change: float
    gap: float
    nodes: int


def integrated_gradients(model: PreTrainedModel, ids_T: Tensor, target: int, baseline: int) -> Owed:
    """Integrated gradients (arXiv:1703.01365) of log p(target | ids) along the straight path of embeddings from one
    token at every place to the text. Points are doubled until the parts add up to the change within COMPLETE."""
    table = model.get_input_embeddings()
    with torch.no_grad():
        there_TD, from_TD = table(ids_T).float(), table(torch.full_like(ids_T, baseline)).float()
    step_TD = there_TD - from_TD

    def log_probability(x_TD: Tensor) -> Tensor:
        logits_V = model(inputs_embeds=x_TD[None].to(table.weight.dtype), use_cache=False).logits[0, -1]
        return logits_V.float().log_softmax(dim=-1)[target]

    with torch.no_grad():
        change = float(log_probability(there_TD)) - float(log_probability(from_TD))
    nodes = FIRST_NODES
    while True:
        places, weights = np.polynomial.legendre.leggauss(nodes)
        parts_T = torch.zeros(len(ids_T), dtype=torch.float64, device=ids_T.device)
        for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
            x_TD = (from_TD + place * step_TD).requires_grad_()
            (slope_TD,) = torch.autograd.grad(log_probability(x_TD), x_TD)
            parts_T += weight * (slope_TD.double() * step_TD.double()).sum(dim=1)
        gap = abs(float(parts_T.sum()) - change) / max(abs(change), 1e-6)
        if gap <= COMPLETE or nodes >= MOST_NODES:
            return Owed(parts_T.cpu().numpy(), target, change, gap, nodes)
        nodes *= 2


@torch.no_grad()
def induction_scores(model: PreTrainedModel, vocabulary: int, seed: int = 0) -> np.ndarray:
    """How much each head looks at what followed the same token before, (N, H) (arXiv:2209.11895, section on heads).

    Random tokens are read twice in a row; at a place of the second reading, the score is the attention to the place
    behind the token's first occurrence, on average.
    """
    generator = np.random.default_rng(seed)
    once = generator.integers(vocabulary, size=REPEATED)
    ids_T = torch.from_numpy(np.concatenate([once, once])).to(next(model.parameters()).device)
    found = model(input_ids=ids_T[None], use_cache=False, output_attentions=True)
    places = np.arange(REPEATED, 2 * REPEATED - 1)
    layers = [layer[0].float().cpu().numpy() for layer in found.attentions or () if layer is not None]
    return np.array([layer[:, places, places - REPEATED + 1].mean(axis=1) for layer in layers])


def induction_chance() -> float:
    """The score of a head that looks at every place before it alike."""
    return float(np.mean([1 / (place + 1) for place in range(REPEATED, 2 * REPEATED - 1)]))


def nearest_documents(shard: Shard, ids_T: np.ndarray, length: int, count: int) -> list[tuple[int, int, int]]:
    """(document, runs of `length` tokens that it shares with the text, place of the first of them in it).

    Those that share most of the text's different runs; every token of the shard is looked at, a chunk at a time.
    """
    wanted = _runs(ids_T.astype(np.int64), length)
    found: dict[int, set[int]] = {}
    first: dict[int, int] = {}
    chunk = 1 << 22
    for start in range(0, shard.tokens_total, chunk):
        tokens = np.asarray(shard.tokens[start : start + chunk + length - 1]).astype(np.int64)
        runs = _runs(tokens, length)
        for place in np.flatnonzero(np.isin(runs, wanted)):
            at = start + int(place)
            document = int(np.searchsorted(shard.offsets, at, side="right")) - 1
            if at + length > shard.offsets[document + 1]:
                continue  # it runs into the next document
            found.setdefault(document, set()).add(int(runs[place]))
            first.setdefault(document, at - int(shard.offsets[document]))
    ranked = sorted(found, key=lambda document: (-len(found[document]), document))[:count]
    return [(document, len(found[document]), first[document]) for document in ranked]


def _runs(tokens_T: np.ndarray, length: int) -> np.ndarray:
    """A number for every run of `length` tokens, (T - length + 1,): equal runs have equal numbers."""
    if len(tokens_T) < length:
        return np.zeros(0, np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(tokens_T, length)
    powers = np.array([pow(1_000_003, power, 1 << 61) for power in range(length)], np.int64)
    with np.errstate(over="ignore"):
        return (windows * powers).sum(axis=1, dtype=np.int64)
