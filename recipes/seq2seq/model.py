"""The encoder-decoder by name, built or pretrained, and as a net whose forward gives the nats of target tokens."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.lm.config import Lora
from pipeline.run.errors import UserError, nearest
from recipes.seq2seq.config import Model, Seq2SeqConfig
from recipes.seq2seq.packed import Positions, begins, masks, places
from recipes.seq2seq.vocabulary import EOS, PAD

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

LOADER = "AutoModelForSeq2SeqLM"
APART = 1e-3  # nats a token
MODEL = "model"  # the directory in a training artifact


class TokenNats(nn.Module):
    """What the loop trains: nats of each target token, and of all tokens evenly, which label smoothing asks for.

    B pairs, S source tokens, T target tokens, V vocabulary.
    """

    def __init__(self, model: "PreTrainedModel", source_pad: int, target_pad: int):
        super().__init__()
        self.model = model
        self.source_pad, self.target_pad = source_pad, target_pad
        self._positions = Positions(model)

    def forward(
        self,
        source_BS: Tensor,
        target_BT: Tensor,
        source_pairs_BS: Tensor | None = None,
        target_pairs_BT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(-log p of each target token, mean over the vocabulary of -log p), fp32 (B, T); padding has 0.

        source_pairs, target_pairs: which pair of its row a token is of, where a row has several.
        """
        start = self.model.config.decoder_start_token_id
        given_BT = torch.cat([torch.full_like(target_BT[:, :1], start), target_BT[:, :-1]], 1)
        if source_pairs_BS is None or target_pairs_BT is None:
            asked = {"input_ids": source_BS, "attention_mask": (source_BS != self.source_pad).long()}
        else:
            given_BT = given_BT.masked_fill(begins(target_pairs_BT), start)
            asked = self._apart(source_BS, source_pairs_BS, target_pairs_BT)
        logits_BTV = self.model(decoder_input_ids=given_BT, use_cache=False, **asked).logits
        self._positions.places = None
        log_probs_BTV = F.log_softmax(logits_BTV.float(), -1)
        real_BT = target_BT != self.target_pad
        nats_BT = -log_probs_BTV.gather(-1, target_BT[..., None])[..., 0]
        return nats_BT * real_BT, -log_probs_BTV.mean(-1) * real_BT

    def _apart(self, source_BS: Tensor, source_pairs_BS: Tensor, target_pairs_BT: Tensor) -> dict[str, Any]:
        """What the model is asked so that each pair of a row sees itself alone; the encoder is run here."""
        same, own, across = masks(source_pairs_BS, target_pairs_BT)
        if self.model.config._attn_implementation != "sdpa":  # others add what they are given
            lowest = torch.finfo(torch.float32).min
            same, own, across = (lowest * (~mask).float() for mask in (same, own, across))
        self._positions.places = places(source_pairs_BS)
        told = self.model.get_encoder()(input_ids=source_BS, attention_mask=same)
        self._positions.places = places(target_pairs_BT)
        return {"encoder_outputs": told, "attention_mask": across, "decoder_attention_mask": own}


def built(model: Model, sizes: tuple[int, int], length: int, apart: bool) -> "PretrainedConfig":
    """The config of a model from scratch.

    sizes: of the vocabularies of source and target; length: tokens of a side at most; apart: the vocabularies are two.

    Raises:
        UserError: no encoder-decoder of that name, an unknown field, values that make no model.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as KNOWN

    from pipeline.lm.model import check_known, fields_of, try_config

    name = str(model.architecture)
    if name not in KNOWN:
        raise UserError(
            f"model.architecture {name!r} is no encoder-decoder that transformers builds\n"
            f"{nearest(name, list(KNOWN))[:300]}"
        )
    known = fields_of(AutoConfig.for_model(name))
    check_known(model.config, known, name)
    fields = {"vocab_size": sizes[0], "pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD}
    if "forced_eos_token_id" in known:
        fields["forced_eos_token_id"] = None  # some were trained to end at the length's limit; these are not
    if "max_position_embeddings" in known:
        fields["max_position_embeddings"] = length
    if name == "marian":
        fields |= {"decoder_vocab_size": sizes[1], "share_encoder_decoder_embeddings": not apart}
    config, error = try_config(name, fields | model.config, LOADER)
    if config is None:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"model.config makes no {name}: {why}\nway out: other values, or leave them out")
    if getattr(config, "max_position_embeddings", length) < length:
        raise UserError(
            f"model.config.max_position_embeddings = {config.max_position_embeddings}, and a side may have {length} "
            f"tokens\nway out: train.max_length={config.max_position_embeddings}, or more positions"
        )
    return config


def pretrained_config(name: str) -> "PretrainedConfig":
    """Raises UserError where `name` is no encoder-decoder here or on the Hub."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.pretrained: {name}: {' '.join(str(error).split())[:200]}\n"
            "expected: a directory, or a name that this machine has or can reach"
        ) from None
    if not config.is_encoder_decoder:
        raise UserError(
            f"model.pretrained: {name} is a {config.model_type}, no encoder-decoder\n"
            "way out: recipe: llm trains decoders, or another model"
        )
    return config


def fresh(config: "PretrainedConfig") -> "PreTrainedModel":
    """fp32 weights from the config's own initialisation."""
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_config(config, dtype=torch.float32)


def begun(config: Seq2SeqConfig, settings: "PretrainedConfig", start: Path | None, lora: Lora | None) -> Any:
    """The model that a stage begins with: fresh, pretrained, or as the stage before left it; with its adapters.

    start: the artifact of the stage before.
    """
    given = config.model.pretrained or (start / MODEL if start else None)
    counted_only = (
        torch.get_default_device().type == "meta"
    )  # a net without weights, of which only shapes are asked
    model = loaded(given) if given and not counted_only else fresh(settings)
    if lora is None:
        return model
    from pipeline.lm.tuning.lora import add_adapters

    return add_adapters(model, lora, task_type="SEQ_2_SEQ_LM")


def loaded(name: str | Path) -> "PreTrainedModel":
    """A pretrained model, or one of a training artifact; fp32."""
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float32, use_safetensors=True)


def save(net: TokenNats, weights: dict[str, Tensor], lora: Lora | None, out: Path) -> None:
    """Write a directory that AutoModelForSeq2SeqLM loads, with trained weights and adapters merged."""
    from pipeline.lm.model import load_weights

    load_weights(net, weights)
    model = net.model.merge_and_unload() if lora else net.model
    model.save_pretrained(out / MODEL)


@torch.no_grad()
def check_apart(net: TokenNats) -> None:
    """Ask the model whether the pairs of one row are apart: one of them beside another, and alone.

    Raises:
        UserError: its nats are others then, or the model cannot be told of pairs.
    """
    training, kind = net.training, net.model.config.model_type
    device = next(net.parameters()).device
    ids = torch.tensor([i for i in range(20) if i not in (net.source_pad, net.target_pad)], device=device)
    first, second = ids[None, 2:6], ids[None, 6:10]
    owners = torch.arange(8, device=device)[None] // 4
    try:
        alone, _ = net.eval()(first, first)
        both = torch.cat([second, first], 1)
        off = float((net(both, both, owners, owners)[0][:, 4:] - alone).abs().max())
    except (RuntimeError, TypeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"packing: a {kind} cannot be told of pairs: {why}\nway out: packing=false") from None
    net.train(training)
    if not off < APART:
        raise UserError(
            f"packing: in a {kind} a pair changes the next one of its row (by {off:.2g} nats)\nway out: packing=false"
        )
