"""How documents of one row are kept apart, by each attention backend.

`sdpa` and `eager` are given a mask of T x T entries a row. `flash` is given where documents begin: torch's fused
kernels then see each document alone, and memory grows with T. `flex` is given the same rule as `sdpa`, of which torch
compiles a kernel that skips the blocks that it rules out. Shapes: B rows, T positions, H query heads, K key and
value heads, D their width, N documents of the batch, L positions of one document.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from pipeline.lm.recurrent import MIXER, RECURRENT, as_mask
from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from pipeline.lm.config import Pretrain, Tuning

DOCUMENTS = "documents"  # under this name transformers finds `document_attention`
IMPLEMENTATIONS = {"flash": DOCUMENTS, "flex": "flex_attention"}
PACKABLE = {"full_attention", "sliding_attention", "chunked_attention"}  # what a mask keeps apart
# Architectures that would take packed rows, and learn from them something else than they are used for.
OTHERWISE = dict.fromkeys(("openai-gpt", "xlm"), "takes masks of [B, T] alone") | dict.fromkeys(
    ("camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"),
    "counts positions from another number than 0",
)
IN_AUTO = ("flash", "sdpa")  # the first that computes what a model needs, in long rows
FUSED = {"full_attention", "sliding_attention"}  # what torch's fused kernels compute of one document
DROPOUTS = ("attention_dropout", "attn_pdrop", "attn_dropout", "attention_probs_dropout_prob")
# On a CPU one document at a time costs more than it saves in short rows. Tokens/s of a training step over flash's, T of
# 256, 512 and 1,024, a small Llama, 2 cores of a Zen 5: eager in bf16 1.25, 1.11, 0.89; sdpa in fp32 1.05, 0.94, 0.80.
SHORT_ROWS = {True: (512, "eager"), False: (256, "sdpa")}  # bf16 or not: rows up to so long, computed by
# Fewer key and value heads than query heads: from torch 2.12 on.
SHARED = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
WIDEST = 256  # heads that torch's variable-length kernel takes on a GPU


def chosen_for(training: Pretrain | Tuning, asked: str, config: PretrainedConfig) -> str:
    """`chosen` for a stage; plain products know no rows that processes share, so there `auto` never takes them."""
    if asked == "auto" and training.sequence_parallel_size > 1:
        lacks = {name: lacking(name, config, training.bf16, torch.cuda.is_available()) for name in IN_AUTO}
        return next((name for name, missing in lacks.items() if not missing), "eager")
    return chosen(asked, config, training.bf16, training.sequence_length)


def chosen(asked: str, config: PretrainedConfig, bf16: bool, sequence_length: int) -> str:
    """The backend that `model.attention` stands for.

    Raises:
        UserError: the model needs what the asked one does not compute.
    """
    gpu = torch.cuda.is_available()
    lacks = {name: lacking(name, config, bf16, gpu) for name in (*IN_AUTO, "eager")}
    if asked == "auto":
        longest, short = SHORT_ROWS[bf16]
        if not gpu and sequence_length <= longest and not lacks[short]:
            return short
        return next(name for name, missing in lacks.items() if not missing or name == "eager")
    if missing := lacking(asked, config, bf16, gpu):
        others = [name for name, lacked in lacks.items() if not lacked]
        raise UserError(
            f"model.attention: {asked} with {config.model_type}: {missing}\n"
            f"way out: model.attention: auto, or {' or '.join(others)}"
        )
    return asked


def packs(asked: bool | str, config: PretrainedConfig) -> bool:
    """Whether rows hold several documents: as asked, and where that is left open where they can be kept apart.

    Raises:
        UserError: packing is asked of layers that cannot keep them apart.
    """
    kinds = set(kinds_of_layers(config.get_text_config()))
    mixing = kinds - PACKABLE
    if any(MIXER.search(name) for name in vars(sys.modules[_class_of(config).__module__])):
        mixing -= RECURRENT
    needed = {"attention_mask"} if kinds <= RECURRENT else {"attention_mask", "position_ids"}
    unheard = needed - inspect.signature(_class_of(config).forward).parameters.keys()
    if mixing:
        why = f"has {', '.join(sorted(mixing))} layers"
    elif unheard:
        why = f"takes no {' and no '.join(sorted(unheard))}"
    else:
        why = OTHERWISE.get(config.model_type)
    if asked is True and why:
        raise UserError(
            f"packing: {config.model_type} {why}: documents in one row would meet\n"
            "way out: packing: auto, one document a row"
        )
    return bool(asked) and not why


def lacking(attention: str, config: PretrainedConfig, bf16: bool, gpu: bool) -> str | None:
    """What a backend does not compute of what training this model needs; None: it computes all."""
    if attention == "eager":
        return None
    model, text = _class_of(config), config.get_text_config()
    if attention == "flex":
        return _lacking_in_flex(model, text, gpu)
    if not model._supports_sdpa or getattr(text, "attn_logit_softcapping", None):
        return "it has scores that fused kernels do not compute"
    if attention == "sdpa":
        return None
    taken = model._supports_flash_attn and (model._supports_attention_backend or model._supports_flex_attn)
    if not taken or set(kinds_of_layers(text)) - FUSED - RECURRENT:
        return "its layers are not all causal attention, whole or in windows"
    if gpu and not bf16:
        return "on a GPU the variable-length kernel computes in bf16 alone"
    if gpu and any(getattr(text, name, None) for name in DROPOUTS):
        return "on a GPU the variable-length kernel has no dropout"
    if gpu and (_head_width(text) or 0) > WIDEST:
        return f"on a GPU the variable-length kernel takes heads of at most {WIDEST}"
    return None


def _lacking_in_flex(model: type[PreTrainedModel], text: PretrainedConfig, gpu: bool) -> str | None:
    if not gpu:
        return "its kernel learns on a GPU alone"
    if not model._supports_flex_attn or set(kinds_of_layers(text)) - PACKABLE:
        return "transformers computes its layers otherwise"
    if any(getattr(text, name, None) for name in DROPOUTS):
        return "its kernel has no dropout"
    return None


def _class_of(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Raises UserError where transformers makes no decoder of the config."""
    try:
        return AutoModelForCausalLM._model_mapping[type(config)]
    except KeyError:
        raise UserError(
            f"{config.model_type} is no decoder that transformers builds\n"
            "expected: a model of AutoModelForCausalLM, such as a Llama, Qwen or Gemma"
        ) from None


def _head_width(config: PretrainedConfig) -> int | None:
    heads = getattr(config, "num_attention_heads", None)
    return getattr(config, "head_dim", None) or (heads and config.hidden_size // heads)


def implementation_of(attention: str) -> str:
    """transformers' name of a backend of ours."""
    return IMPLEMENTATIONS.get(attention, attention)


def apart(
    model: PreTrainedModel, document_ids_BT: Tensor, boundaries_N: Tensor | None
) -> Tensor | BlockMask | dict[str, Any]:
    """What the model is given as its attention mask, so that a position sees its own document up to itself.

    boundaries_N: as `boundaries`, for `flash`; None: found here, for which a GPU is waited for.
    """
    config, backend = model.config.get_text_config(), model.config._attn_implementation
    kinds = kinds_of_layers(config)
    if backend.startswith(DOCUMENTS):
        found = boundaries(document_ids_BT) if boundaries_N is None else boundaries_N
        found = found[None, None, None]  # of four dimensions: handed to every layer as it is
        if not set(kinds) & RECURRENT:
            return found
        masks = dict.fromkeys(PACKABLE, found)
    else:
        masks = {
            kind: isolating_blocks(document_ids_BT, *_reach(config, kind))
            if backend == IMPLEMENTATIONS["flex"]
            else isolating_mask(document_ids_BT, backend, model.dtype, *_reach(config, kind))
            for kind in {*kinds, "full_attention"} & PACKABLE
        }
    if carried := set(kinds) & RECURRENT:
        masks |= dict.fromkeys({*carried, "linear_attention"}, as_mask(document_ids_BT))
    return masks if len(kinds) > 1 or "hybrid" in kinds else masks[kinds[0]]


def boundaries(document_ids_BT: Tensor) -> Tensor:
    """int32 [N + 1]: where each document begins when the rows stand end to end, and where the last one ends."""
    begins_BT = torch.ones_like(document_ids_BT, dtype=torch.bool)
    begins_BT[:, 1:] = document_ids_BT[:, 1:] != document_ids_BT[:, :-1]
    end = torch.tensor([document_ids_BT.numel()], device=document_ids_BT.device)
    return torch.cat([begins_BT.flatten().nonzero()[:, 0], end]).to(torch.int32)


def isolating_mask(
    document_ids_BT: Tensor,
    implementation: str,
    dtype: torch.dtype,
    window: int | None = None,
    chunk: int | None = None,
) -> Tensor:
    """A causal mask [B, 1, T, T] that lets a position see only its own document.

    Given whole, transformers takes it as it is: it builds none of its own and asks the device nothing. Padding
    (id -1) sees itself, so no row of the softmax is empty. sdpa takes booleans, eager an additive mask.

    window: positions that one sees, itself among them; chunk: positions, counted from a document's first, in blocks
        that do not see each other.
    """
    positions = torch.arange(document_ids_BT.shape[1], device=document_ids_BT.device)
    allowed_TT = positions[:, None] >= positions[None]
    if window:
        allowed_TT &= positions[:, None] - positions[None] < window
    allowed_BTT = allowed_TT & (document_ids_BT[:, :, None] == document_ids_BT[:, None, :])
    if chunk:
        begins_BT = document_ids_BT.diff(prepend=document_ids_BT[:, :1] - 1) != 0
        block_BT = (positions - torch.where(begins_BT, positions, 0).cummax(1).values) // chunk
        allowed_BTT &= block_BT[:, :, None] == block_BT[:, None, :]
    allowed = allowed_BTT[:, None]
    if implementation != "eager":
        return allowed
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )


def isolating_blocks(
    document_ids_BT: Tensor, window: int | None = None, chunk: int | None = None
) -> BlockMask:
    """The rule of isolating_mask as flex_attention takes it: whole blocks of the T x T that nothing of is seen."""
    ids_BT, rows, positions = document_ids_BT, *document_ids_BT.shape
    places = torch.arange(positions, device=ids_BT.device)
    begins_BT = ids_BT.diff(prepend=ids_BT[:, :1] - 1) != 0
    within_BT = places - torch.where(begins_BT, places, 0).cummax(1).values

    def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        allowed = (query >= key) & (ids_BT[row, query] == ids_BT[row, key])
        if window:
            allowed = allowed & (query - key < window)
        if chunk:
            allowed = allowed & (within_BT[row, query] // chunk == within_BT[row, key] // chunk)
        return allowed

    return create_block_mask(seen, rows, None, positions, positions, device=ids_BT.device)


def kinds_of_layers(config: PretrainedConfig) -> list[str]:
    """The kinds of a decoder's layers, by transformers' names, such as full_attention and sliding_attention."""
    if named := getattr(config, "layer_types", None):
        return sorted(set(named))
    return ["sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"]


def _reach(config: PretrainedConfig, kind: str) -> tuple[int | None, int | None]:
    """(window, chunk) of a kind of layers."""
    return (
        config.sliding_window if kind == "sliding_attention" else None,
        config.attention_chunk_size if kind == "chunked_attention" else None,
    )


def document_attention(
    module: torch.nn.Module,
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers calls for attention: [B, T, H, D] of each document alone.

    attention_mask: the boundaries [1, 1, 1, N + 1] that `apart` gives; with any other one, as in generation, it is
        transformers' sdpa.
    sliding_window: keys that a query sees, itself among them.
    """
    given = attention_mask is not None and attention_mask.dtype == torch.int32
    # A document a row, which is what a plan reckons with: the kernel's own causal path takes all rows at once.
    whole = given and attention_mask.numel() == len(query_BHTD) + 1 and query_BHTD.device.type == "cpu"
    if not given or (whole and (sliding_window is None or query_BHTD.shape[2] <= sliding_window)):
        attention_mask = None if given else attention_mask
        return sdpa_attention_forward(
            module,
            query_BHTD,
            key_BKTD,
            value_BKTD,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            **others,
        )
    assert all(others.get(name) is None for name in ("softcap", "s_aux", "position_bias")), (
        "`lacking` refuses these"
    )
    rows, heads, positions, _ = query_BHTD.shape
    flat = [_flat(tensor) for tensor in (query_BHTD, key_BKTD, value_BKTD)]
    if query_BHTD.device.type == "cpu":
        seen = _one_by_one(*flat, attention_mask.flatten(), dropout, scaling, sliding_window)
    else:
        assert not dropout, "`lacking` refuses it"
        seen = _varlen(*flat, attention_mask.flatten(), positions, scaling, sliding_window)
    return seen.view(rows, positions, heads, -1), None


def _flat(tensor_BHTD: Tensor) -> Tensor:
    """Rows end to end: [B T, H, D], in the precision that autocast computes products in."""
    flat = tensor_BHTD.transpose(1, 2).flatten(0, 1)
    device = flat.device.type
    return flat.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else flat


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    boundaries_N: Tensor,
    longest: int,
    scale: float | None,
    window: int | None,
) -> Tensor:
    """torch's variable-length flash kernel, with queries, keys and values [B T, H, D] of one width."""
    if not SHARED and query.shape[1] != key.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(groups, 1) for tensor in (key, value))
    width, kept = query.shape[-1], value.shape[-1]
    scale = width**-0.5 if scale is None else scale
    query, key, value = (_widened(tensor, max(width, kept)) for tensor in (query, key, value))
    reach = (window - 1 if window else -1, 0)
    seen = varlen_attn(
        query,
        key,
        value,
        boundaries_N,
        boundaries_N,
        longest,
        longest,
        scale=scale,
        window_size=reach,
        **SHARED,
    )
    return seen[..., :kept]


def _widened(tensor: Tensor, width: int) -> Tensor:
    """Zeros behind the last entries: products stay what they are. The kernel wants multiples of 8."""
    missing = -(-width // 8) * 8 - tensor.shape[-1]
    return F.pad(tensor, (0, missing)) if missing else tensor.contiguous()


@torch._dynamo.disable
def _one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    boundaries_N: Tensor,
    dropout: float,
    scale: float | None,
    window: int | None,
) -> Tensor:
    """sdpa's causal path for a document at a time: [B T, H, D]."""
    found = boundaries_N.diff().tolist()
    parts = zip(query.split(found), key.split(found), value.split(found), strict=True)
    seen = [
        _causal(*(part.transpose(0, 1)[None] for part in three), dropout, scale, window) for three in parts
    ]
    return torch.cat([one[0].transpose(0, 1) for one in seen])


def _causal(
    query_1HLD: Tensor,
    key_1KLD: Tensor,
    value_1KLD: Tensor,
    dropout: float,
    scale: float | None,
    window: int | None,
) -> Tensor:
    """One document: whole, or where it is longer than the window in blocks of the window's length."""
    how = {"dropout_p": dropout, "scale": scale, "enable_gqa": query_1HLD.shape[1] != key_1KLD.shape[1]}
    length = query_1HLD.shape[2]
    if window is None or length <= window:
        return F.scaled_dot_product_attention(query_1HLD, key_1KLD, value_1KLD, is_causal=True, **how)
    blocks = []
    for first in range(0, length, window):
        last, from_ = min(first + window, length), max(0, first - window + 1)
        queries = torch.arange(first, last, device=query_1HLD.device)[:, None]
        keys = torch.arange(from_, last, device=query_1HLD.device)[None]
        within = (keys <= queries) & (keys > queries - window)
        own = (tensor[:, :, from_:last] for tensor in (key_1KLD, value_1KLD))
        blocks.append(
            F.scaled_dot_product_attention(query_1HLD[:, :, first:last], *own, attn_mask=within, **how)
        )
    return torch.cat(blocks, 2)


AttentionInterface.register(DOCUMENTS, document_attention)
AttentionMaskInterface.register(DOCUMENTS, sdpa_mask)  # where no boundaries are given
