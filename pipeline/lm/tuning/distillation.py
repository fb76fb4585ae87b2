"""Learning another model's probabilities beside the text: the teacher, and the loss that has both.

Shapes: B rows, T positions, V vocabulary entries, N positions of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from pipeline.data.packing import IGNORED
from pipeline.lm.config import Finetune, Pretrain, Teacher
from pipeline.lm.recipe import ROWS, LanguageModel, TokenLoss, counted, rows_at_once, summed_loss
from pipeline.run.errors import UserError
from pipeline.train.recipe import Batch, Clock, Loss

if TYPE_CHECKING:
    from pipeline.lm.experts import Balance


class TeacherLogits(TokenLoss):
    """A causal language model that returns its logits, [B, T, V], documents of a row apart."""

    forward = TokenLoss.logits


class DistilledLoss(TokenLoss):
    """A causal language model that returns the text's summed loss and its summed divergence from the teacher."""

    def __init__(self, model: PreTrainedModel, packed: bool, teacher: Teacher) -> None:
        super().__init__(model, packed)
        self.asked = teacher

    def forward(
        self,
        input_ids_BT: Tensor,
        labels_BT: Tensor,
        document_ids_BT: Tensor,
        position_ids_BT: Tensor,
        weights_BT: Tensor | None,
        boundaries_N: Tensor | None,
        teacher_BTV: Tensor,
    ) -> tuple[Tensor, ...] | tuple[tuple[Tensor, ...], Balance]:
        """(cross-entropy, divergence), 0-d fp32 sums in nats over labels that are not IGNORED, weighted alike."""
        logits_BTV = self.logits(input_ids_BT, document_ids_BT, position_ids_BT, boundaries_N)
        text = summed_loss(logits_BTV, labels_BT, weights_BT)
        counted_BT = (
            (labels_BT != IGNORED).float() if weights_BT is None else weights_BT * (labels_BT != IGNORED)
        )
        apart = divergence(
            logits_BTV.flatten(0, 1), teacher_BTV.flatten(0, 1), counted_BT.flatten(), self.asked
        )
        return self.with_balance((text, apart), document_ids_BT)


@dataclass
class DistilledModel(LanguageModel):
    """A language model that learns another one's probabilities beside the text; `training` says how much of each.

    teacher: makes the other model.
    """

    teacher: Callable[[], PreTrainedModel] | None = None

    @property
    def asked(self) -> Teacher:
        assert isinstance(self.training, Pretrain | Finetune) and self.training.teacher, "the section has one"
        return self.training.teacher

    def nets(self) -> dict[str, nn.Module]:
        assert self.teacher is not None, "what makes it is given"
        return super().nets() | {"teacher": TeacherLogits(self.teacher(), self.packed)}

    def wrapped(self, net: PreTrainedModel) -> TokenLoss:
        return DistilledLoss(net, self.packed, self.asked)

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        """Text and divergence by their weights, with the routers' balance where there is one."""
        rows = [batch[name] for name in ROWS]
        with torch.no_grad():
            inputs, _, documents, positions = rows
            theirs = nets["teacher"](inputs, documents, positions, batch["boundaries"])
        found = nets["model"](*rows, batch.get("weights"), batch["boundaries"], theirs)
        (text, apart), balance = found if self.balance_weight else (found, None)
        share = self.asked.weight
        total, parts = (1 - share) * text + share * apart, {"cross_entropy": text, "divergence": apart}
        if balance is not None:
            even = (balance[0] * counted(batch).sum(1)).sum()
            total, parts = total + self.balance_weight * even, parts | {"router_balance": even}
        return Loss(total, {name: part.detach() for name, part in parts.items()})


def divergence(logits_NV: Tensor, teacher_NV: Tensor, counted_N: Tensor, asked: Teacher) -> Tensor:
    """The divergence summed over positions by what each counts, times the squared temperature; 0-d, fp32.

    A few rows at a time, computed again in the backward pass, so that no fp32 copy of all logits is kept.
    """
    rows = rows_at_once(logits_NV)
    total = logits_NV.new_zeros((), dtype=torch.float32)
    for first in range(0, len(logits_NV), rows):
        part = slice(first, first + rows)
        total = total + checkpoint(
            _divergence, logits_NV[part], teacher_NV[part], counted_N[part], asked, use_reentrant=False
        )
    return total * asked.temperature**2


def _divergence(logits_NV: Tensor, teacher_NV: Tensor, counted_N: Tensor, asked: Teacher) -> Tensor:
    own = F.log_softmax(logits_NV.float() / asked.temperature, -1)
    theirs = F.log_softmax(teacher_NV.float() / asked.temperature, -1)
    one, other = (theirs, own) if asked.divergence == "forward" else (own, theirs)
    return ((one.exp() * (one - other)).sum(-1) * counted_N).sum()


def recipe_of(
    training: Pretrain | Finetune, attention: str, tokenizer: Path, **settings: Any
) -> LanguageModel:
    """The recipe of a training stage, with its teacher where the section names one; see teacher_of."""
    if not training.teacher:
        return LanguageModel(training=training, **settings)
    return DistilledModel(
        training=training, teacher=partial(teacher_of, training, attention, tokenizer), **settings
    )


def teacher_of(training: Pretrain | Finetune, attention: str, tokenizer: Path) -> PreTrainedModel:
    """The teacher, fp32 in evaluation mode.

    Raises:
        UserError: it does not load; its vocabulary is another than that of the tokenizer in this directory.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from pipeline.lm.attention import chosen_for, implementation_of

    assert training.teacher is not None, "asked for"
    name = training.teacher.model
    try:
        own, theirs = AutoTokenizer.from_pretrained(tokenizer), AutoTokenizer.from_pretrained(name)
        if own.get_vocab() != theirs.get_vocab():
            raise UserError(
                f"teacher {name} has another vocabulary than the model: probabilities of other tokens teach nothing\n"
                "way out: a teacher with this tokenizer, or tokenizer.pretrained of the teacher's"
            )
        how = implementation_of(chosen_for(training, attention, AutoConfig.from_pretrained(name)))
        return AutoModelForCausalLM.from_pretrained(
            name, dtype=torch.float32, attn_implementation=how, use_safetensors=True
        ).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"teacher.model {name}: {' '.join(str(error).split())[:200]}") from None


def check_teacher(training: Pretrain | Finetune, section: str) -> None:
    """Raises UserError where the teacher's directory is none."""
    if training.teacher is None:
        return
    name = training.teacher.model
    local = name.startswith((".", "/", "~")) or name.count("/") != 1
    if local and not (Path(name) / "config.json").is_file():
        raise UserError(
            f"{section}.teacher.model {name} holds no config.json\nexpected: a Hugging Face model directory, or a name"
        )


def teacher_files(training: Pretrain | Finetune | None) -> dict[str, Path]:
    """The teacher's files, by name; none for a name on the Hub."""
    from pipeline.run.outside import files_below

    if training is None or training.teacher is None or not Path(training.teacher.model).is_dir():
        return {}
    return {f"teacher: {n}": file for n, file in files_below(Path(training.teacher.model)).items()}
