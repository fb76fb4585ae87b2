"""Several processes share each row: every one computes a stretch of its positions (Ulysses, arXiv:2309.14509).

All that a decoder does position by position needs no other stretch. For attention the processes trade: each gives away
its stretch of most heads and gets the whole row of a few, attends, and trades back. Shapes as in attention.py; P
processes share a row, R = T / P positions are one process's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.lm.attention import DOCUMENTS, PACKABLE, document_attention, kinds_of_layers, packs
from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from pipeline.lm.config import Pretrain, Tuning
    from pipeline.train.engine import Runtime
    from pipeline.train.recipe import Batch

IN_TRADE = {
    "sdpa": "sdpa_shared",
    DOCUMENTS: f"{DOCUMENTS}_shared",
}  # backend -> its name where rows are shared
WHOLE = ("document_ids", "boundaries")  # of a batch: every process sees where all documents of its rows begin


@dataclass(frozen=True)
class Sharing:
    """This process among the `size` that share its rows; `group` is theirs."""

    rank: int
    size: int
    group: Any

    def stretch(self, batch: Batch) -> Batch:
        """The batch with this process's positions alone, [B, R]; what says where documents begin stays whole."""
        found = dict(batch)
        for name, tensor in batch.items():
            if name not in WHOLE and tensor.dim() == 2:
                found[name] = tensor.chunk(self.size, 1)[self.rank].contiguous()
        return found


def sharing_of(runtime: Runtime) -> Sharing | None:
    size = runtime.sequence_size
    return Sharing(runtime.sequence_rank, size, runtime.sequence_group) if size > 1 else None


def shared(model: PreTrainedModel, sharing: Sharing) -> PreTrainedModel:
    """The model with attention that trades heads within the group."""
    config = model.config
    config._attn_implementation = IN_TRADE[config._attn_implementation]
    for module in model.modules():
        module.sharing = sharing
    return model


def check_shared(config: PretrainedConfig, training: Pretrain | Tuning, attention: str) -> None:
    """Refuse rows that cannot be shared.

    Raises:
        UserError: positions or heads do not divide, or something other than attention looks along a row.
    """
    size, text = training.sequence_parallel_size, config.get_text_config()
    heads = getattr(text, "num_attention_heads", None) or 1
    keys = getattr(text, "num_key_value_heads", None) or heads
    counts = {
        "sequence_length": training.sequence_length,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
    }
    for name, count in counts.items():
        if count % size:
            able = [
                other for other in range(2, count + 1) if all(one % other == 0 for one in counts.values())
            ]
            way = (
                f"a size of {' or '.join(map(str, able[:4]))}" if able else "rows that are not shared: size 1"
            )
            raise UserError(f"sequence_parallel_size {size} does not divide {name} = {count}\nway out: {way}")
    if why := _unshareable(config, training, attention):
        raise UserError(f"sequence_parallel_size {size}: {why}\nway out: sequence_parallel_size: 1")


def _unshareable(config: PretrainedConfig, training: Pretrain | Tuning, attention: str) -> str | None:
    text = config.get_text_config()
    if set(kinds_of_layers(text)) - PACKABLE or not packs(training.packing, config):
        return "rows are shared where they are packed, and attention is all that looks along them"
    if attention == "eager":
        return f"{config.model_type} needs plain products for its attention, which know no shared rows"
    if getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None):
        return "the balance of experts is counted over whole rows"
    if training.neftune_noise_alpha:
        return "NEFTune's noise is scaled by whole rows"
    if training.torch_compile is True:
        return "layers that trade heads are not compiled"
    return None


def attention_shared(inner: Any) -> Any:
    """`inner`, an attention function of transformers, on whole rows of a share of the heads."""

    def attend(
        module: nn.Module,
        query_BHRD: Tensor,
        key_BKRD: Tensor,
        value_BKRD: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """[B, R, H, D]; with the mask of no more than these keys, as in generation, nothing is traded."""
        sharing: Sharing = module.sharing  # type: ignore[assignment]
        of_whole_rows = attention_mask is not None and (
            attention_mask.dtype == torch.int32
            or attention_mask.shape[-1] == key_BKRD.shape[2] * sharing.size
        )
        if not of_whole_rows:
            return inner(module, query_BHRD, key_BKRD, value_BKRD, attention_mask, **options)
        whole = [_Trade.apply(tensor, 1, 2, sharing) for tensor in (query_BHRD, key_BKRD, value_BKRD)]
        seen_BTHD, _ = inner(module, *whole, attention_mask, **options)
        return _Trade.apply(seen_BTHD, 1, 2, sharing), None

    return attend


class _Trade(torch.autograd.Function):
    """Give away P parts along one dimension, and put what comes together along another; the gradient goes back."""

    @staticmethod
    def forward(ctx, tensor: Tensor, apart: int, together: int, sharing: Sharing) -> Tensor:
        ctx.apart, ctx.together, ctx.sharing = apart, together, sharing
        return _traded(tensor, apart, together, sharing)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _traded(gradient, ctx.together, ctx.apart, ctx.sharing), None, None, None


def _traded(tensor: Tensor, apart: int, together: int, sharing: Sharing) -> Tensor:
    given = torch.stack([part.contiguous() for part in tensor.chunk(sharing.size, apart)])
    got = torch.empty_like(given)
    dist.all_to_all_single(got, given, group=sharing.group)
    return torch.cat(got.unbind(0), together)


for _backend, _name in IN_TRADE.items():
    AttentionInterface.register(
        _name, attention_shared({"sdpa": sdpa_attention_forward, DOCUMENTS: document_attention}[_backend])
    )
    AttentionMaskInterface.register(_name, sdpa_mask)
