"""The recipe of preference tuning: rows of judged answers in, a sum over units of two answers out.

Shapes: R rows, T positions, B items, U units of an item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.data.kinds import UNWANTED
from pipeline.data.pairs import NO_UNIT, collate_answers
from pipeline.lm.attention import boundaries
from pipeline.lm.config import Prefer
from pipeline.lm.experts import Balance
from pipeline.lm.recipe import ROWS, LanguageModel, TokenLoss, token_losses
from pipeline.lm.tuning.losses import Answers, Terms, preference_terms
from pipeline.train.recipe import Batch, Clock, Loss, Sum


class AnswerLogps(TokenLoss):
    """A causal language model that returns the log-probability of each document's targets."""

    def forward(
        self,
        input_ids_RT: Tensor,
        labels_RT: Tensor,
        document_ids_RT: Tensor,
        position_ids_RT: Tensor,
        documents: int,
        boundaries_N: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Balance]:
        """fp32 [R, documents]: of the first so many documents of each row, 0 where it has fewer.

        With a mixture of experts whose config weighs its balance, also how even each row's routing was.
        """
        logits_RTV = self.logits(input_ids_RT, document_ids_RT, position_ids_RT, boundaries_N)
        losses_RT = token_losses(logits_RTV, labels_RT)
        # Sums over positions rather than additions at indices, whose order a GPU does not keep.
        places_D = torch.arange(documents, device=losses_RT.device)
        own_RDT = document_ids_RT[:, None, :] == places_D[:, None]
        return self.with_balance(-(losses_RT[:, None, :] * own_RDT).sum(-1), document_ids_RT)


@dataclass
class PreferenceModel(LanguageModel):
    """Preference tuning of one net; `training` is a Prefer section."""

    @property
    def settings(self) -> Prefer:
        assert isinstance(self.training, Prefer), "the section says which loss"
        return self.training

    def wrapped(self, net: PreTrainedModel) -> TokenLoss:
        return AnswerLogps(net, self.packed)

    def collate(self, items: list[dict[str, Any]]) -> Batch:
        batch = collate_answers(items)
        return batch | {"boundaries": boundaries(batch["document_ids"])}

    def count(self, turn: str, batch: Batch) -> float:
        """Units."""
        return float((batch["answer_labels"][..., 0] != NO_UNIT).sum())

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        answers, balance = self._answers(nets["model"], batch)
        terms = self.terms(answers, batch)
        total, parts = terms.losses_BU.sum(), self.parts(answers, terms)
        if balance:
            # A row's balance counts as much as its units do: over a step, and however the step is cut.
            units_R = answers.there_BU.sum(1).repeat_interleave(len(balance[0]) // len(answers.labels))
            units_R = units_R * len(answers.labels) / len(balance[0])
            routers = {f"router_{name[:-2]}": (of_R * units_R).sum() for name, of_R in balance._asdict().items()}
            parts |= {"preference": total} | routers
            total = total + self.balance_weight * routers["router_balance"]
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def terms(self, answers: Answers, batch: Batch) -> Terms:
        """The loss of each unit, and what its answers are worth."""
        return preference_terms(self.settings, answers)

    def _answers(self, net: nn.Module, batch: Batch) -> tuple[Answers, Balance | None]:
        labels = batch["answer_labels"]
        documents = labels[..., 0].numel() * 2 // len(batch["input_ids"])
        found = net(*(batch[name] for name in ROWS), documents, batch["boundaries"])
        logps_RD, balance = (found, None) if isinstance(found, Tensor) else found
        answers = Answers(logps_RD.reshape(labels.shape), batch["reference"], batch["answer_lengths"], labels)
        return answers, balance

    def parts(self, answers: Answers, terms: Terms) -> dict[str, Tensor]:
        """Sums over units for the log."""
        there, logps = answers.there_BU[..., None], answers.logps.detach()
        first, second = terms.rewards.unbind(-1)
        if self.settings.paired:
            ahead = (first > second) * answers.there_BU
            parts = {
                "margin": first - second,
                "accuracy": ahead,
                "reward_chosen": first,
                "reward_rejected": second,
            }
            chosen, rejected = (logps * there).unbind(-1)
            parts |= {"logp_chosen": chosen, "logp_rejected": rejected}
        else:
            sign = torch.where(answers.labels[..., 0] == UNWANTED, -1.0, 1.0)
            parts = {
                "reward_towards_verdict": sign * first,
                "moved": second / self.settings.beta,
                "logp": (logps * there)[..., 0],
            }
        return {name: part.sum() for name, part in parts.items()}

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        loss = self.loss("model", nets, batch, clock)
        figures = {"loss": loss.parts.get("preference", loss.total), **loss.parts}
        units = self.count("model", batch)
        return {name: Sum(float(value), units) for name, value in figures.items()}
