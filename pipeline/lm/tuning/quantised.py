"""A frozen base in 4 or 8 bits below adapters (QLoRA, arXiv:2305.14314), on any device and under any launcher.

A matrix is stored as codes and scales, and made again where it is multiplied with: a product is exactly that with the
matrix that the codes stand for. So what the adapters were trained against can be written out, and they merge into it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.lm.config import Lora
from pipeline.lm.tuning.lora import quiet_bitsandbytes
from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from pipeline.data.shards import Shard

BLOCK, SCALES_BLOCK = 64, 256  # values that share a scale, and scales that share one: the paper's sizes
# Nats a token that merging may move the model's distribution by; in fp32 rounding moves it by 1e-9.
FARTHEST = 1e-3
PROBED, PROBED_TOKENS = 4, 256  # documents on which that is measured, and of each this many tokens


class QuantisedLinear(nn.Linear):
    """x W^T + b, W frozen: `weight` holds its codes, `scales` what they are multiplied with.

    nf4: two codes a byte, one flat column; a scale for each 64 values, and with double quantisation 8 bits of it.
    int8: a code an entry, and a scale a row.
    """

    def __init__(self, linear: nn.Linear, kind: str, double: bool):
        super().__init__(1, 1, bias=False, device="meta")
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.kind, self.bias = kind, linear.bias
        encode = _nf4 if kind == "nf4" else _int8
        codes, self.scales = encode(linear.weight.detach().float(), double)
        self.weight = nn.Parameter(codes, requires_grad=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """A module's `to`: codes and scales change their device, never their precision."""
        super()._apply(fn, recurse)
        self.scales = tuple(scale.to(self.weight.device) for scale in self.scales)
        return self

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The matrix that the codes stand for, [out, in], rounded once from fp32."""
        shape = (self.out_features, self.in_features)
        if self.scales[0].is_meta:  # a net without memory, whose activations are counted
            return torch.empty(shape, dtype=dtype, device=self.weight.device)
        decode = _of_nf4 if self.kind == "nf4" else _of_int8
        return decode(self.weight, self.scales, shape, dtype)

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        out = _Product.apply(x.to(dtype), self, dtype)
        return out if self.bias is None else out + self.bias.to(dtype)

    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.weight, *self.scales))


class _Product(torch.autograd.Function):
    """x W^T, whose backward makes W again rather than keep it."""

    @staticmethod
    def forward(context: Any, x: Tensor, layer: QuantisedLinear, dtype: torch.dtype) -> Tensor:
        context.layer, context.dtype = layer, dtype
        return F.linear(x, layer.dequantised(dtype))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient @ context.layer.dequantised(context.dtype), None, None


@cache
def _bits() -> Any:
    quiet_bitsandbytes()
    import bitsandbytes.functional

    return bitsandbytes.functional


def _nf4(weight: Tensor, double: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    if weight.is_meta:
        made = lambda count, dtype=torch.float32: torch.empty(count, dtype=dtype, device="meta")  # noqa: E731
        blocks = -(-weight.numel() // BLOCK)
        codes = torch.empty((-(-weight.numel() // 2), 1), dtype=torch.uint8, device="meta")
        if not double:
            return codes, (made(16), made(blocks))
        return codes, (
            made(16),
            made(blocks, torch.uint8),
            made(-(-blocks // SCALES_BLOCK)),
            made(256),
            made(1),
        )
    bits = _bits()
    codes, state = bits.quantize_4bit(weight, blocksize=BLOCK, compress_statistics=double, quant_type="nf4")
    if not double:
        return codes, (state.code, state.absmax)
    inner = state.state2
    return codes, (state.code, state.absmax, inner.absmax, inner.code, state.offset.reshape(1))


def _of_nf4(codes: Tensor, scales: tuple[Tensor, ...], shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    bits = _bits()
    code, absmax, *inner = scales
    if inner:
        state = bits.QuantState(inner[0], code=inner[1], blocksize=SCALES_BLOCK, dtype=torch.float32)
        absmax = bits.dequantize_blockwise(absmax, state) + inner[2]
    # As one row: of a matrix whose rows are no multiple of 64, bitsandbytes 0.50 takes the wrong scales on a CPU.
    state = bits.QuantState(
        absmax,
        shape=torch.Size([shape[0] * shape[1]]),
        code=code,
        blocksize=BLOCK,
        quant_type="nf4",
        dtype=dtype,
    )
    return bits.dequantize_4bit(codes.data, state).view(shape)


def _int8(weight: Tensor, double: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    scales = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scales.clamp(min=1e-30)).round().to(torch.int8), (scales,)


def _of_int8(codes: Tensor, scales: tuple[Tensor, ...], shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return (codes * scales[0]).to(dtype)


def quantise(model: PreTrainedModel, lora: Lora) -> PreTrainedModel:
    """`model` with its linear layers stored as `lora` says; embeddings, norms, the head and what is trained stay."""
    for name, linear in list(_linears(model, lora)):
        parent, _, last = name.rpartition(".")
        setattr(
            model.get_submodule(parent),
            last,
            QuantisedLinear(linear, lora.quantisation, lora.double_quantisation),
        )
    return model


def dequantise(model: nn.Module) -> nn.Module:
    """`model` with the matrices that the codes stand for, fp32, in plain layers."""
    for name, layer in list(quantised_layers(model)):
        parent, _, last = name.rpartition(".")
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(layer.dequantised(torch.float32), requires_grad=False)
        plain.bias = layer.bias
        setattr(model.get_submodule(parent), last, plain)
    return model


def quantised_layers(model: nn.Module) -> Iterator[tuple[str, QuantisedLinear]]:
    for name, module in model.named_modules():
        if isinstance(module, QuantisedLinear):
            yield name, module


def _linears(model: PreTrainedModel, lora: Lora) -> Iterator[tuple[str, nn.Linear]]:
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if (
            type(module) is nn.Linear
            and module is not head
            and name.rsplit(".", 1)[-1] not in lora.modules_to_save
        ):
            yield name, module


def check_quantised(model: PreTrainedModel, lora: Lora, section: str) -> None:
    """Refuse a base that cannot be stored so, on an empty model.

    Raises:
        UserError: bitsandbytes is not installed, or the model has no linear layer to store in codes.
    """
    if lora.quantisation == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"{section}.quantisation: nf4 needs bitsandbytes, which is not installed\n"
            "way out: pip install bitsandbytes, or quantisation: int8, which needs no package"
        )
    if next(_linears(model, lora), None) is None:
        raise UserError(
            f"{section}.quantisation: {lora.quantisation}: {model.config.model_type} has no linear layer to store so\n"
            "way out: leave it out"
        )


def moved_by_merging(model: PeftModel, shard: Shard) -> tuple[PreTrainedModel, dict[str, float]]:
    """The adapters merged into what their base's codes stand for, and how that changes it on a few documents.

    Both are computed in fp32, for what bf16 rounds is no change of merging's, and on the CPU, for a GPU that holds
    the codes may not hold the matrices.

    Returns:
        the plain model in fp32; `merge_kl`: mean divergence of its tokens' distributions from the trained one's, nats;
        `merge_agreement`: share of positions where both find the same token likeliest.

    Raises:
        UserError: they are farther apart than FARTHEST.
    """
    model.to("cpu").eval()
    rows = [shard.document(index)[:PROBED_TOKENS] for index in range(min(PROBED, shard.documents))]
    before = [_log_probabilities(model, row) for row in rows]
    merged = dequantise(model).merge_and_unload()
    divergence, same, count = 0.0, 0, 0
    for row, live in zip(rows, before, strict=True):
        now = _log_probabilities(merged, row)
        divergence += float((live.exp() * (live - now)).sum())
        same += int((live.argmax(-1) == now.argmax(-1)).sum())
        count += len(row)
    figures = {"merge_kl": divergence / max(count, 1), "merge_agreement": same / max(count, 1)}
    if not figures["merge_kl"] <= FARTHEST:  # NaN is not
        raise UserError(
            f"the merged model is {figures['merge_kl']:.3g} nats a token from the trained one, more than {FARTHEST}\n"
            "way out: a smaller learning rate; the checkpoint keeps what was trained"
        )
    return merged, figures


def _log_probabilities(model: nn.Module, ids: np.ndarray) -> Tensor:
    """fp64 [T, V] of one document alone."""
    ids_1T = torch.from_numpy(ids.astype(np.int64))[None]
    with torch.no_grad():
        return model(input_ids=ids_1T).logits[0].double().log_softmax(-1)
