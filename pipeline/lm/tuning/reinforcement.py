"""The recipe of learning from checkable rewards: groups of answers sampled from the weights, judged by a function.

Shapes: N answers (of all groups of a micro-batch), T positions, G answers a group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pipeline.data.order import position
from pipeline.data.packing import IGNORED, order_of
from pipeline.data.shards import Shard
from pipeline.lm.config import Reinforce
from pipeline.lm.decoding import sample_batch
from pipeline.lm.recipe import LanguageModel, TokenLoss, token_losses
from pipeline.lm.tuning.rewards import raise_alike
from pipeline.run.errors import UserError
from pipeline.train.recipe import Batch, Clock, Loss, Sum
from pipeline.train.seeds import derived_seed


class TokenLogps(TokenLoss):
    """A causal language model that returns the log-probability of each label, fp32 [N, T], 0 where it is IGNORED.

    temperature: of the softmax, the one that answers are sampled at.
    """

    def __init__(self, model: PreTrainedModel, packed: bool, temperature: float = 1.0) -> None:
        super().__init__(model, packed)
        self.temperature = temperature

    def forward(self, input_ids_NT: Tensor, labels_NT: Tensor) -> Tensor:
        logits_NTV = self.model(input_ids=input_ids_NT, use_cache=False, return_dict=True).logits
        scaled = logits_NTV if self.temperature == 1 else logits_NTV / self.temperature
        return -token_losses(scaled, labels_NT)


class PromptRows:
    """Prompts in a new order each epoch, one a sample.

    Args:
        shard: the prompts as ids; rows: their JSON lines, for the reward.
        longest: tokens of a prompt at most; the others are left out.
        seed: order; None: the shard's, the same in every epoch.
    """

    def __init__(self, shard: Shard, rows: list[dict[str, Any]], longest: int, seed: int | None) -> None:
        self.shard, self.rows, self.seed = shard, rows, seed
        self.kept = np.flatnonzero(shard.lengths <= longest)
        self.length = len(self.kept)
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def item(self, index: int) -> dict[str, Any]:
        """The prompt of global sample `index`: its ids, its row in the shard, and the index itself."""
        epoch, offset = position(index, self.length)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, order_of(self.seed, epoch, self.length, "prompts")
        row = int(self.kept[self._order[offset]])
        return {"ids": self.shard.document(row).astype(np.int64), "row": row, "index": index}


class Rollouts(NamedTuple):
    """N answers: input_ids and labels (the answers' tokens, else IGNORED), int64 [N, T]; rewards fp32 [N];
    stopped [N], whether an answer ended itself; lengths int64 [N], of the answers."""

    input_ids: Tensor
    labels: Tensor
    rewards: Tensor
    stopped: Tensor
    lengths: Tensor


@dataclass
class RewardedModel(LanguageModel):
    """Group-relative policy optimisation (GRPO, arXiv:2402.03300) of one net; `training` is a Reinforce section.

    The answers of a step come from the weights at its beginning: answer g of sample i is a function of (seed, i, g)
    and of those weights, so that a resumed run samples what the uninterrupted one did.

    tokenizer: writes the answers' texts. reward: what an answer is worth, given its row. reference: makes the net that
    the KL term compares with; None: no such term.
    """

    tokenizer: PreTrainedTokenizerFast | None = None
    reward: Callable[[str, dict[str, Any]], float] | None = None
    reference: Callable[[], PreTrainedModel] | None = None

    zero_stages = (1, 2)  # sampling under ZeRO-3 would gather every weight for every token

    @property
    def settings(self) -> Reinforce:
        assert isinstance(self.training, Reinforce), "the section says how answers are sampled and weighed"
        return self.training

    def nets(self) -> dict[str, nn.Module]:
        found = super().nets()
        if not self.reference:
            return found
        return found | {"reference": TokenLogps(self.reference(), False, self.settings.temperature)}

    def wrapped(self, net: PreTrainedModel) -> TokenLoss:
        return TokenLogps(net, self.packed, self.settings.temperature)

    def collate(self, items: list[dict[str, Any]]) -> Batch:
        """Prompts filled up to the longest with -1: int64 [B, P]; their rows and global indices, int64 [B]."""
        longest = max(len(item["ids"]) for item in items)
        filled = [np.pad(item["ids"], (0, longest - len(item["ids"])), constant_values=-1) for item in items]
        numbers = {name: torch.tensor([item[name] for item in items]) for name in ("row", "index")}
        return {"prompts": torch.from_numpy(np.stack(filled)), **numbers}

    @property
    def round_steps(self) -> int:
        return self.settings.num_iterations

    def act(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Batch:
        """Answers to the batch's prompts as `loss` learns from them: the fields of Rollouts; `answered` fp32 [N, T], 1
        where a token counts; `advantages` fp32 [N]; `sampled` and `reference` fp32 [N, T], log-probabilities under the
        weights that sampled, where they will have changed, and under the reference, where there is one."""
        settings, device = self.settings, batch["prompts"].device
        rolled = self.rollouts(nets["model"], batch, settings.num_generations, self.train.rows)
        ids_NT, labels_NT = rolled.input_ids.to(device), rolled.labels.to(device)
        answered_NT = (rolled.labels != IGNORED).float()
        if settings.mask_truncated_completions:
            answered_NT = answered_NT * rolled.stopped[:, None].float()
        made = rolled._asdict() | {
            "answered": answered_NT,
            "advantages": advantages(rolled.rewards, settings.num_generations, settings.scale_rewards),
        }
        if settings.num_iterations > 1:
            made["sampled"] = nets["model"](ids_NT, labels_NT)
        if self.reference:
            made["reference"] = nets["reference"](ids_NT, labels_NT)
        return made

    def count(self, turn: str, batch: Batch) -> float:
        """Answers; for `dapo` their tokens."""
        return float(batch["answered"].sum()) if self.settings.loss_type == "dapo" else len(batch["rewards"])

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        settings = self.settings
        logps_NT = nets["model"](batch["input_ids"], batch["labels"])
        # In a round's first update the weights are those that sampled: the ratio is 1, its gradient that of `logps_NT`.
        sampled_NT = batch.get("sampled", logps_NT.detach())
        terms = policy_terms(
            settings, logps_NT, sampled_NT, batch["advantages"], batch["answered"], batch.get("reference")
        )
        groups = batch["rewards"].view(-1, settings.num_generations)
        parts = {
            "reward": groups,
            "no_signal": (groups.std(1, keepdim=True) == 0).expand_as(groups),
            "answer_length": batch["lengths"],
            "stopped": batch["stopped"],
            "kl": terms.kl_N,
        }
        if settings.num_iterations > 1:
            parts["clipped"] = terms.clipped_N
        answers = torch.tensor(float(groups.numel()), device=groups.device)
        sums = {name: part.detach().float().sum() for name, part in parts.items()}
        return Loss(terms.losses_N.sum(), sums, dict.fromkeys(sums, answers))

    @torch.no_grad()
    def rollouts(
        self, net: nn.Module, batch: Batch, generations: int, rows: list[dict[str, Any]]
    ) -> Rollouts:
        """`generations` answers to each prompt of the batch, on the CPU."""
        settings, module = self.settings, bare(net)
        prompts = [row[row >= 0].tolist() for row in batch["prompts"].cpu()]
        places, indices = batch["row"].tolist(), batch["index"].tolist()
        many = [(i, g) for i in range(len(prompts)) for g in range(generations)]
        seeds = [derived_seed(settings.seed, "answers", indices[i], g) for i, g in many]
        # In the weights' own precision: autocast would keep casts that a gradient cannot pass through.
        with torch.autocast(batch["prompts"].device.type, enabled=False):
            answers = sample_batch(
                module.model,
                self.tokenizer,
                [prompts[i] for i, _ in many],
                settings.max_completion_length,
                settings.temperature,
                1.0,
                seeds,
            )
        stops = self._stops(module.model)
        texts = [self._text(answer) for answer in answers]
        rewards = self._rewards([rows[places[i]] for i, _ in many], texts)
        ids_NT, labels_NT = _padded([prompts[i] for i, _ in many], answers)
        return Rollouts(
            ids_NT,
            labels_NT,
            torch.tensor(rewards, dtype=torch.float32),
            torch.tensor([answer[-1] in stops for answer in answers]),
            torch.tensor([len(answer) for answer in answers]),
        )

    def _rewards(self, rows: list[dict[str, Any]], texts: list[str]) -> list[float]:
        """What each text is worth.

        Raises:
            UserError: the reward of one fails, on whichever process; every process raises it.
        """
        found, broken = [], None
        for row, text in zip(rows, texts, strict=True):
            try:
                found.append(self.reward(text, row))
            except UserError as error:
                broken = error
                break
        raise_alike(broken)
        return found

    def _stops(self, model: PreTrainedModel) -> frozenset[int]:
        from pipeline.lm.prompts import stop_ids

        return stop_ids(model, self.tokenizer)

    def _text(self, answer: list[int]) -> str:
        if self.tokenizer is None:
            return " ".join(map(str, answer))
        return self.tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        """The reward of one answer to each prompt, sampled by the prompt's own seed."""
        rolled = self.rollouts(nets["model"], batch, 1, self.held.rows)
        count = len(rolled.rewards)
        figures = {"reward": rolled.rewards, "answer_length": rolled.lengths, "stopped": rolled.stopped}
        return {name: Sum(float(value.float().sum()), count) for name, value in figures.items()}


def bare(net: nn.Module) -> TokenLoss:
    """The module inside a launcher's wrapper."""
    return net if isinstance(net, TokenLoss) else net.module


def advantages(rewards_N: Tensor, generations: int, scale: str) -> Tensor:
    """Rewards less their group's mean; `group`: over its standard deviation (of G - 1) too, as GRPO has it; `none`: as
    they are (Dr. GRPO, arXiv:2503.20783)."""
    groups = rewards_N.view(-1, generations)
    centred = groups - groups.mean(1, keepdim=True)
    if scale == "group":
        centred = centred / (groups.std(1, keepdim=True) + 1e-4)
    return centred.flatten()


class PolicyTerms(NamedTuple):
    """Of each answer: what it adds to the loss, its divergence from the reference in nats, and the share of its tokens
    whose ratio was clipped, all [N]."""

    losses_N: Tensor
    kl_N: Tensor
    clipped_N: Tensor


def policy_terms(
    settings: Reinforce,
    logps_NT: Tensor,
    sampled_NT: Tensor,
    advantages_N: Tensor,
    answered_NT: Tensor,
    reference_NT: Tensor | None,
) -> PolicyTerms:
    """PPO's clipped ratio of the weights now and those that sampled, times the advantage; beta times the KL.

    The KL of a token is estimated by r - log r - 1 with r = p_reference / p (Schulman 2020, "Approximating KL
    divergence"). `grpo` divides an answer's tokens by their number; `dr_grpo` by max_completion_length, which is the
    same for all, so that long answers are not favoured; `dapo` (arXiv:2503.14476) by 1: the loop divides by the tokens
    of all answers of the step.

    Args:
        logps_NT: of each label, with gradient; sampled_NT: under the weights that sampled it; reference_NT: under the
            reference, or None. answered_NT: 1 where a token counts.
    """
    ratio_NT = torch.exp(logps_NT - sampled_NT)
    high = settings.epsilon if settings.epsilon_high is None else settings.epsilon_high
    clipped_NT = ratio_NT.clamp(1 - settings.epsilon, 1 + high)
    gains_NT = torch.minimum(ratio_NT * advantages_N[:, None], clipped_NT * advantages_N[:, None])
    losses_NT, kl_NT = -gains_NT, torch.zeros_like(gains_NT)
    if reference_NT is not None:
        apart_NT = reference_NT - logps_NT
        kl_NT = torch.exp(apart_NT) - apart_NT - 1
        losses_NT = losses_NT + settings.beta * kl_NT
    tokens_N = answered_NT.sum(1).clamp(min=1)
    over = {"grpo": tokens_N, "dr_grpo": settings.max_completion_length, "dapo": 1}[settings.loss_type]
    clipped_NT = (clipped_NT * advantages_N[:, None] < ratio_NT * advantages_N[:, None]) * answered_NT
    return PolicyTerms(
        (losses_NT * answered_NT).sum(1) / over, (kl_NT * answered_NT).sum(1), clipped_NT.sum(1) / tokens_N
    )


def _padded(prompts: list[list[int]], answers: list[list[int]]) -> tuple[Tensor, Tensor]:
    """(ids, labels), int64 [N, T]: each prompt with its answer, zeros and IGNORED behind."""
    longest = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        whole, begin = torch.tensor([*prompt, *answer]), len(prompt) - 1
        ids[row, : len(whole)] = whole
        labels[row, begin : begin + len(answer)] = whole[len(prompt) :]
    return ids, labels
