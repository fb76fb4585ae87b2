"""The recipe of reward models: a decoder whose one number at an answer's end says what the answer is worth.

Shapes: R rows, T positions, D documents, B items, U units of an item.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.lm.config import RewardModel
from pipeline.lm.experts import Balance
from pipeline.lm.recipe import TokenLoss
from pipeline.lm.tuning.losses import Answers, Terms
from pipeline.lm.tuning.preference import PreferenceModel
from pipeline.train.recipe import Batch


class AnswerScores(TokenLoss):
    """A sequence classifier of one class that returns its number for each document of packed rows.

    It is read where transformers reads it of a padded batch: at the last token that is not the padding's.
    """

    def forward(
        self,
        input_ids_RT: Tensor,
        labels_RT: Tensor,
        document_ids_RT: Tensor,
        position_ids_RT: Tensor,
        documents: int,
        boundaries_N: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Balance]:
        """fp32 [R, documents]: of the first so many documents of each row, 0 where it has fewer; labels change nothing.

        With a mixture of experts whose config weighs its balance, also how even each row's routing was.
        """
        scores_RT = self.logits(input_ids_RT, document_ids_RT, position_ids_RT, boundaries_N)[..., 0].float()
        places_D = torch.arange(documents, device=scores_RT.device)
        places_T = torch.arange(1, scores_RT.shape[1] + 1, device=scores_RT.device)
        read_RDT = document_ids_RT[:, None, :] == places_D[:, None]
        read_RDT = read_RDT & (input_ids_RT != self.model.config.get_text_config().pad_token_id)[:, None, :]
        last_RD1 = (read_RDT * places_T).amax(-1, keepdim=True)
        # Sums over positions rather than a choice of indices, whose backward a GPU adds up in any order.
        found_RD = (scores_RT[:, None, :] * (read_RDT & (places_T == last_RD1))).sum(-1)
        return self.with_balance(found_RD, document_ids_RT)

    def predicted(self, rows: dict) -> Tensor:
        """The number at every position, [R, T, 1]."""
        classifier = classifier_of(self.model)
        hidden_RTH = getattr(classifier, classifier.base_model_prefix)(**rows).last_hidden_state
        return classifier.score(hidden_RTH)


def classifier_of(model: nn.Module) -> PreTrainedModel:
    """The sequence classifier, of peft's wrapper too."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def with_padding(model: PreTrainedModel, pad: int | None, end: int | None) -> PreTrainedModel:
    """`model`, its config naming the token that padding is made of, which transformers needs to find an end."""
    model.config.get_text_config().pad_token_id = model.config.pad_token_id = end if pad is None else pad
    return model


@dataclass
class RankingModel(PreferenceModel):
    """Bradley-Terry over pairs (arXiv:2203.02155, section 3.5), with margins (arXiv:2307.09288, section 3.2.2) and
    rewards held around 0 (arXiv:2312.09244, section 4); `training` is a RewardModel section."""

    @property
    def weighed(self) -> RewardModel:
        assert isinstance(self.training, RewardModel), "the section says how rewards are held"
        return self.training

    def wrapped(self, net: PreTrainedModel) -> AnswerScores:
        return AnswerScores(net, self.packed)

    def terms(self, answers: Answers, batch: Batch) -> Terms:
        rewards = answers.logps * answers.there_BU[..., None]
        chosen_BU, rejected_BU = rewards.unbind(-1)
        losses_BU = -F.logsigmoid(chosen_BU - rejected_BU - batch["margins"][..., 0])
        losses_BU = losses_BU + self.weighed.center_rewards_coefficient * (chosen_BU + rejected_BU).square()
        return Terms(losses_BU * answers.there_BU, rewards.detach())

    def parts(self, answers: Answers, terms: Terms) -> dict[str, Tensor]:
        chosen_BU, rejected_BU = terms.rewards.unbind(-1)
        found = {"margin": chosen_BU - rejected_BU, "accuracy": (chosen_BU > rejected_BU) * answers.there_BU}
        found |= {"reward_chosen": chosen_BU, "reward_rejected": rejected_BU}
        return {name: part.sum() for name, part in found.items()}

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """Nothing: it writes no text."""
        return {}
