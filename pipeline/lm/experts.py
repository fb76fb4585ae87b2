"""Mixture of experts: how evenly a row's tokens are routed, as a part of the loss.

Shapes: B rows, T positions, E experts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel


def balance_weight(config: PretrainedConfig) -> float:
    """The weight of the balance loss by the model's own config; 0: a dense model, or one without such a loss."""
    return float(getattr(config.get_text_config(), "router_aux_loss_coef", None) or 0)


class Balance(NamedTuple):
    """balance_B: the loss, 1 where every expert has the same share of each choice, times the choices of a token;
    load_B, least_B: the largest and the smallest expert's share over an even one. Of all layers of a row together.
    """

    balance_B: Tensor
    load_B: Tensor
    least_B: Tensor


class Routers:
    """What the routers of a model say during one forward, collected as transformers itself would."""

    def __init__(self, routers: list[tuple[nn.Module, int]], choices: int):
        """routers: each with the place of its logits in what it returns; choices: experts a token."""
        self.choices = choices
        self._said: list[Tensor] | None = None
        for module, at in routers:
            module.register_forward_hook(lambda _, __, output, at=at: self._hear(output, at))

    def listen(self) -> None:
        self._said = []

    def balance(self, valid_BT: Tensor) -> Balance:
        """Of the forward since `listen`, padding (not valid) left out: E times the sum over experts of (share of the
        choices) x (mean probability), arXiv:2101.03961, Equations 4 to 6, for each row by itself, so that it does not
        matter which rows share a micro-batch. What an activation checkpoint computes again is not heard.
        """
        said, self._said = self._said, None
        assert said, "no router was heard"
        rows, positions = valid_BT.shape
        valid_BT1 = valid_BT[..., None].float()
        chosen_BE = probable_BE = torch.zeros((), device=valid_BT.device)
        for logits in said:
            logits_BTE = logits.reshape(rows, positions, -1)
            probabilities_BTE = logits_BTE.float().softmax(-1)
            best = probabilities_BTE.topk(self.choices, -1).indices
            picked_BTE = torch.zeros_like(probabilities_BTE).scatter_(-1, best, 1.0)
            chosen_BE = chosen_BE + (picked_BTE * valid_BT1).sum(1)
            probable_BE = probable_BE + (probabilities_BTE * valid_BT1).sum(1)
        tokens_B1 = len(said) * valid_BT1.sum(1)
        experts = chosen_BE.shape[-1]
        balance_B = experts * (chosen_BE / tokens_B1 * (probable_BE / tokens_B1)).sum(-1)
        load_BE = experts * chosen_BE / tokens_B1 / self.choices
        return Balance(balance_B, load_BE.amax(-1), load_BE.amin(-1))

    def _hear(self, output: Any, at: int) -> None:
        if self._said is not None:
            self._said.append(output[at] if isinstance(output, tuple) else output)


def routers_of(model: nn.Module) -> Routers | None:
    """Where the model has a balance loss, and routers: some architectures have both only if their config says so."""
    routers = _routers(model) if balance_weight(model.config) else []
    return Routers(routers, model.config.get_text_config().num_experts_per_tok) if routers else None


def _routers(model: nn.Module) -> list[tuple[nn.Module, int]]:
    """The modules whose outputs transformers records as router logits, and which of their outputs."""
    recorded = [
        module._can_record_outputs["router_logits"]
        for module in model.modules()
        if isinstance(module, PreTrainedModel) and "router_logits" in (module._can_record_outputs or {})
    ]
    recorders = recorded[0] if recorded else []
    return [
        (module, recorder.index)
        for recorder in (recorders if isinstance(recorders, list | tuple) else [recorders])
        for name, module in model.named_modules()
        if isinstance(module, recorder.target_class) and (recorder.layer_name or "") in name
    ]
