"""What preference tuning minimises: equations on the log-probabilities of whole answers.

Shape letters: B rows, U units of a row, two answers each. Every term is of one unit, so sums over units do not depend
on how a step is cut into batches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.kinds import UNWANTED
from pipeline.data.pairs import NO_UNIT
from pipeline.lm.config import Prefer


class Answers(NamedTuple):
    """Of the first and second answer of each unit, [B, U, 2]: a pair's chosen and rejected one, or a single answer and
    one that was given to another prompt.

    logps: log-probability of the answer's tokens, summed, fp32, with gradient; reference: the same of the model before
    training, 0 where the loss has none; lengths: tokens. labels: uint8, of pipeline.data.kinds, or NO_UNIT where a
    shorter row leaves a place empty.
    """

    logps: Tensor
    reference: Tensor
    lengths: Tensor
    labels: Tensor

    @property
    def there_BU(self) -> Tensor:
        """Where there is a unit: 1, else 0."""
        return (self.labels[..., 0] != NO_UNIT).float()

    @property
    def means(self) -> Tensor:
        """Log-probability a token."""
        return self.logps / self.lengths.clamp(min=1)

    @property
    def log_ratios(self) -> Tensor:
        """log p(answer) - log p_reference(answer)."""
        return self.logps - self.reference


class Terms(NamedTuple):
    """The loss of each unit, [B, U], and the implicit rewards of its answers, [B, U, 2]; both 0 where there is none."""

    losses_BU: Tensor
    rewards: Tensor


def preference_terms(settings: Prefer, answers: Answers) -> Terms:
    """The loss and the rewards of each unit."""
    losses_BU = _LOSSES[settings.loss_type](settings, answers)
    there_BU = answers.there_BU
    if settings.referenced:
        scores = answers.log_ratios
    else:
        scores = answers.logps if settings.loss_type == "cpo" else answers.means
    rewards = settings.beta * scores.detach() * there_BU[..., None]
    # A place without a unit gets no gradient either: 0 x inf would be NaN.
    return Terms(torch.where(there_BU > 0, losses_BU, 0.0), rewards)


def _margin(scores: Tensor) -> Tensor:
    return scores[..., 0] - scores[..., 1]


def _smoothed(logits: Tensor, smoothing: float) -> Tensor:
    """-log sigmoid of the logits, of a pair that is the wrong way round with this probability."""
    return -(1 - smoothing) * F.logsigmoid(logits) - smoothing * F.logsigmoid(-logits)


def _sigmoid(settings: Prefer, answers: Answers) -> Tensor:
    """DPO (arXiv:2305.18290, eq. 7); smoothed as its authors' conservative DPO is."""
    return _smoothed(settings.beta * _margin(answers.log_ratios), settings.label_smoothing)


def _robust(settings: Prefer, answers: Answers) -> Tensor:
    """Unbiased under labels that are flipped with probability e (arXiv:2403.00409, eq. 13)."""
    logits, e = settings.beta * _margin(answers.log_ratios), settings.label_smoothing
    return (-(1 - e) * F.logsigmoid(logits) + e * F.logsigmoid(-logits)) / (1 - 2 * e)


def _hinge(settings: Prefer, answers: Answers) -> Tensor:
    """SLiC's hinge on the same margin (arXiv:2305.10425)."""
    return torch.relu(1 - settings.beta * _margin(answers.log_ratios))


def _ipo(settings: Prefer, answers: Answers) -> Tensor:
    """IPO (arXiv:2310.12036, eq. 17) on log-ratios a token, so that long answers weigh no more."""
    margin = _margin(answers.log_ratios / answers.lengths.clamp(min=1))
    return (margin - 1 / (2 * settings.beta)) ** 2


def _simpo(settings: Prefer, answers: Answers) -> Tensor:
    """SimPO (arXiv:2405.14734, eq. 6)."""
    return _smoothed(settings.beta * _margin(answers.means) - settings.simpo_gamma, settings.label_smoothing)


def _cpo(settings: Prefer, answers: Answers) -> Tensor:
    """CPO (arXiv:2401.08417, eq. 6): DPO's loss against a uniform reference, and the chosen answer's loss a token."""
    preferred = _smoothed(settings.beta * _margin(answers.logps), settings.label_smoothing)
    return preferred - settings.cpo_alpha * answers.means[..., 0]


def _orpo(settings: Prefer, answers: Answers) -> Tensor:
    """ORPO (arXiv:2403.07691, eqs. 6 and 7): the chosen answer's loss a token, and its odds against the other's."""
    means = answers.means
    log_odds = means - log_one_minus_exp(means)
    return -means[..., 0] - settings.beta * F.logsigmoid(_margin(log_odds))


def log_one_minus_exp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, without cancellation at either end (Maechler 2012); x at 0 is taken just below it."""
    x = x.clamp(max=-torch.finfo(x.dtype).tiny)
    half = -0.6931471805599453
    near, far = torch.where(x > half, x, half), torch.where(x > half, half, x)
    return torch.where(x > half, torch.log(-torch.expm1(near)), torch.log1p(-torch.exp(far)))


def _kto(settings: Prefer, answers: Answers) -> Tensor:
    """KTO (arXiv:2402.01306, eqs. 7 and 8).

    The point of comparison is how far the model has moved on answers given to other prompts, at least 0: the mean over
    the row, which is the same however rows are cut into batches.
    """
    ratios, there_BU = answers.log_ratios, answers.there_BU
    moved = (ratios[..., 1].detach() * there_BU).sum(-1) / there_BU.sum(-1).clamp(min=1)
    ahead = settings.beta * (ratios[..., 0] - moved.clamp(min=0)[..., None])
    unwanted = answers.labels[..., 0] == UNWANTED
    return torch.where(
        unwanted,
        settings.undesirable_weight * torch.sigmoid(ahead),
        settings.desirable_weight * torch.sigmoid(-ahead),
    )


_LOSSES = {
    "sigmoid": _sigmoid,
    "robust": _robust,
    "hinge": _hinge,
    "ipo": _ipo,
    "simpo": _simpo,
    "cpo": _cpo,
    "orpo": _orpo,
    "kto": _kto,
}
