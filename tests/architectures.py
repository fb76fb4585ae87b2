"""Every decoder that transformers builds, tiny: how its documents are kept apart, and whether it trains and travels.

python -m tests.architectures [NAME ...]      a table, one line a name of the causal-LM mapping; exit 1 where one fails

A net has at least one layer of each kind that its architecture has, and is trained three steps by our loop on rows of
documents, saved, and loaded by plain transformers, with equal logits. Where rows are packed, a document's logits are
the same to the rounding of the products whatever its neighbour is, as they are alone, and as plain products have them.
"""

import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from pipeline.data.packing import Alone, PackedDocuments, collate
from pipeline.lm.attention import chosen, kinds_of_layers, packs
from pipeline.lm.config import Lora
from pipeline.lm.model import build_model, load_model
from pipeline.lm.recipe import LanguageModel, TokenLoss
from pipeline.lm.tuning.lora import add_adapters
from pipeline.run.config import Training
from pipeline.train.loop import Trainer, steps
from tests.tiny_language_model import ALONE, VOCABULARY, loss_and_logits, random_documents, shard_of

LENGTH, WINDOW, LAYERS = 48, 5, 4
NAMES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
_WIDTHS = dict.fromkeys(
    ("hidden_size", "n_embd", "d_model", "embed_dim", "dim", "attention_hidden_size", "lru_width"), 64
)
_INNER = dict.fromkeys(
    (
        "intermediate_size",
        "ffn_dim",
        "decoder_ffn_dim",
        "encoder_ffn_dim",
        "n_inner",
        "intermediate_size_mlp",
    ),
    128,
)
_HEADS = dict.fromkeys(
    (
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "decoder_attention_heads",
        "encoder_attention_heads",
    ),
    4,
)
_DEPTH = dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), LAYERS)
_EXPERTS = {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts"), 1),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
}
_LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "v_head_dim": 16, "qk_head_dim": 32}
_LATENT |= {
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 64,
}
_STATE = {
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups"), 1),
    **{"mamba_expand": 2, "time_step_rank": 4, "mamba_dt_rank": 4, "mamba_d_ssm": 128},
    **{
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
}
SMALL: dict[str, Any] = (
    _WIDTHS | _INNER | _HEADS | _DEPTH | _EXPERTS | _LATENT | _STATE
    | dict.fromkeys(("head_dim", "d_head", "attention_head_dim"), 16)
    | dict.fromkeys(("n_positions", "max_position_embeddings", "context_length", "max_sequence_length"), 128)
    | dict.fromkeys(("sliding_window", "attention_chunk_size"), WINDOW)
    | {"num_key_value_heads": 2, "vocab_size": VOCABULARY, "rotary_dim": 8, "is_decoder": True}
    | {"initializer_range": 0.1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
)  # fmt: skip
NO_DROPOUT = (
    "attention_dropout",
    "attn_pdrop",
    "resid_pdrop",
    "embd_pdrop",
    "hidden_dropout",
    "dropout",
    "attn_dropout",
)
# What these architectures need beside it.
OWN: dict[str, dict[str, Any]] = {
    "deepseek_v4": {"num_key_value_heads": 1, "o_groups": 2, "o_lora_rank": 16, "partial_rotary_factor": 0.5},
    "gemma4_text": {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 16},
    "gemma4_unified_text": {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 16},
    "lfm2": {"layer_types": ["full_attention", "conv"] * 2},
    "lfm2_moe": {"layer_types": ["full_attention", "conv"] * 2, "num_dense_layers": 1},
    "mamba2": {"expand": 2, "num_heads": 8, "head_dim": 16},
    "xlstm": {"embedding_dim": 64, "num_blocks": LAYERS},
    "zamba": {"attention_hidden_size": 128, "attention_head_dim": 32, "n_mamba_heads": 2},
    "zamba2": {
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "hybrid_layer_ids": [1, 3],
        "n_mamba_heads": 8,
    },
    "zaya": {"num_experts_per_tok": 1},
}
LIKE_EAGER = 1e-3  # of the largest logit; a part that a kernel leaves out is above 1e-1
# What cannot be trained here, and why.
LEFT_OUT: dict[str, str] = {
    "blt": "reads bytes through a patcher of its own, not tokens of a tokenizer",
    "cohere_compass_text": "its usual config has no layers of the kind that its masks are made for",
    "dbrx": "its attention wants a rope_theta that transformers' config no longer has",
    "deepseek_v4": "its rotary widths are not of its head's: no small shape was found",
    "dots3_note": "settings differ by layer: no small config was found",
    "emu3": "the text part of a vision model: saved, its config is of no decoder that transformers loads",
    "gemma3n": "vision and audio: needs timm",
    "gemma3n_text": "layers share caches by their usual number: no small config was found",
    "gemma4": "settings differ by layer: no small config was found; gemma4_text is in the table",
    "gemma4_assistant": "drafts for another model",
    "gemma4_unified": "settings differ by layer: no small config was found; gemma4_unified_text is in the table",
    "gemma4_unified_assistant": "drafts for another model",
    "llama4": "of 12 M parameters at the least; llama4_text is in the table",
    "mllama": "the text part of a vision model: saved, its config is of no decoder that transformers loads",
    "moshi": "audio: its config has a window that its layers do not",
    "musicgen": "audio, with a text encoder beside it",
    "musicgen_melody": "audio, with a text encoder beside it",
    "qwen4_exp": "its usual config builds no model",
    "qwen4_exp_text": "its usual config builds no model",
    "reformer": "hashes with axial positions: rows of one length only",
    "xmod": "wants to be told a language for each row",
    "zamba2": "its shared blocks are numbered by their usual layers: no small config was found",
}


def tiny_config(name: str) -> PretrainedConfig:
    """The architecture's config, every part of it small, made as a user would: by its own constructor."""
    usual = AutoConfig.for_model(name)
    fields = small_fields(usual) | OWN.get(name, {})
    for part, settings in vars(usual).items():
        if isinstance(settings, PretrainedConfig):
            fields[part] = settings.to_dict() | small_fields(settings) | OWN.get(name, {}).get(part, {})
    return AutoConfig.for_model(name, **fields)


def small_fields(config: PretrainedConfig) -> dict[str, Any]:
    usual = config.to_dict()
    fields = {
        field: value for field, value in SMALL.items() if field in usual or field in config.attribute_map
    }
    fields |= {field: 0.0 for field in NO_DROPOUT if isinstance(usual.get(field), float)}
    for field in ("sliding_window", "q_lora_rank"):
        if usual.get(field) is None:
            fields.pop(field, None)
    for field, value in usual.items():
        if isinstance(value, list | tuple) and len(value) > LAYERS and isinstance(value[0], str | int | bool):
            fields[field] = (sorted(set(value), key=str) * LAYERS)[:LAYERS]
    if usual.get("kv_lora_rank"):
        fields["num_key_value_heads"] = 4
    return fields


@dataclass(frozen=True)
class Outcome:
    """One line of the table. wrong: what failed; None: nothing."""

    name: str
    parameters: int = 0
    layers: str = ""
    rows: str = ""
    attention: str = ""
    adapters: str = ""
    wrong: str | None = None

    def __str__(self) -> str:
        kinds = f"{self.layers}; {self.rows}, {self.attention}; LoRA {self.adapters}"
        return (
            f"{self.name:28} {self.parameters:>9,}  {kinds if self.wrong is None else 'FAILS: ' + self.wrong}"
        )


def outcome_of(name: str) -> Outcome:
    """Build, train, save, load and compare one architecture."""
    config = tiny_config(name)
    packed = packs("auto", config)
    backends = dict.fromkeys(
        chosen(asked, config, False, LENGTH) for asked in ("auto", *(_can(config, "flash")))
    )
    net = new(config, next(iter(backends)))
    parameters = sum(p.numel() for p in net.parameters())
    adapters = (
        "yes"
        if any(type(module).__name__ in ("Linear", "Conv1D") for module in net.modules())
        else "no linear layers"
    )
    kinds = ", ".join(kinds_of_layers(config.get_text_config()))
    rows = "packed" if packed else "one document a row"
    said = Outcome(name, parameters, kinds, rows, " and ".join(backends), adapters)
    with tempfile.TemporaryDirectory() as folder:
        shard = shard_of(Path(folder), random_documents(12, 20, 3, 40, 9, 17, 30, 25))
        wrong = next(
            (
                f"{backend}: {found}"
                for backend in backends
                for found in [
                    (leak(config, backend, shard) or departs(config, backend, shard) if packed else None)
                    or trains(config, backend, shard, packed, None)
                    or (trains(config, backend, shard, packed, Lora(r=4)) if adapters == "yes" else None)
                    or travels(new(config, backend), Path(folder))
                ]
                if found
            ),
            None,
        )
    return Outcome(**(vars(said) | {"wrong": wrong}))


def _can(config: PretrainedConfig, backend: str) -> tuple[str, ...]:
    from pipeline.lm.attention import lacking

    return () if lacking(backend, config, False, False) or not packs("auto", config) else (backend,)


def new(config: PretrainedConfig, backend: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return build_model(config, backend).eval()


def leak(config: PretrainedConfig, backend: str, shard: Any) -> str | None:
    """Whether a document's logits change with its neighbour, or differ from what they are alone."""
    net = TokenLoss(new(config, backend))
    batch = collate([PackedDocuments(shard, LENGTH, None).item(0)])
    ids, first = batch["input_ids"], batch["document_ids"] == 0
    changed = batch | {"input_ids": torch.where(first, (ids - 3 + 7) % (VOCABULARY - 3) + 3, ids)}
    second = (batch["document_ids"] == 1)[0]
    with torch.no_grad():
        (_, before), (_, after) = (loss_and_logits(net, rows) for rows in (batch, changed))
        seen: list[torch.Tensor] = []
        with net.model.get_output_embeddings().register_forward_hook(lambda *three: seen.append(three[2])):
            net.model(input_ids=ids[:, second], use_cache=False)
    size = float(before.abs().max())
    own, other, alone = (
        float((before[:, first[0]] - after[:, first[0]]).abs().max()) / size,
        float((before[:, second] - after[:, second]).abs().max()) / size,
        float((before[:, second] - seen[0]).abs().max()) / size,
    )
    if other > 1e-5 or alone > 1e-4 or own < 1e-4:  # measured: at most 1e-6 and 2e-5, at least 1e-1
        return f"a neighbour changes logits by {other:.0e}, being alone by {alone:.0e}, its own tokens by {own:.0e}"
    return None


def departs(config: PretrainedConfig, backend: str, shard: Any) -> str | None:
    """Whether the logits of packed rows are others than those of plain products."""
    batch = collate([PackedDocuments(shard, LENGTH, None).item(0)])
    with torch.no_grad():
        plain, ours = (loss_and_logits(TokenLoss(new(config, kind)), batch)[1] for kind in ("eager", backend))
    apart = float((ours - plain).abs().max() / plain.abs().max())
    return f"logits are {apart:.0e} from those of plain products" if apart > LIKE_EAGER else None


def trains(config: PretrainedConfig, backend: str, shard: Any, packed: bool, lora: Lora | None) -> str | None:
    """Three steps on one batch of rows, which the loss must fall on."""
    training = Training(
        learning_rate=3e-3, max_steps=3, train_batch_size=2, per_device_train_batch_size=1, bf16=False
    )
    rows = PackedDocuments(shard, LENGTH, 0) if packed else Alone(shard, LENGTH, 0, None, 2)
    build = lambda: add_adapters(new(config, backend), lora) if lora else new(config, backend)  # noqa: E731
    trainer = Trainer(LanguageModel(training, build, First(rows, 2), None, LENGTH, packed), ALONE)
    losses = [info.sums["model/loss"].mean for info in steps(trainer)]
    if not losses[-1] < losses[0]:
        return f"{'LoRA: ' if lora else ''}losses {[round(loss, 3) for loss in losses]}"
    return None


@dataclass(frozen=True)
class First:
    """The first rows of a split, again and again."""

    split: Any
    length: int

    def item(self, index: int) -> Any:
        return self.split.item(index % self.length)


def travels(model: PreTrainedModel, folder: Path) -> str | None:
    """Saved, and loaded by transformers alone: the same logits."""
    model.save_pretrained(folder / "saved")
    plain = AutoModelForCausalLM.from_pretrained(folder / "saved", dtype=torch.float32).eval()
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():
        ours, theirs = (
            net(input_ids=ids, use_cache=False).logits for net in (load_model(folder / "saved"), plain)
        )
        live = model(input_ids=ids, use_cache=False).logits
    if not torch.equal(ours, theirs) or float((live - theirs).abs().max()) > 1e-4 * float(live.abs().max()):
        return f"logits of the loaded differ by {float((live - theirs).abs().max()):.0e}"
    return None


def main(names: list[str]) -> int:
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    failed = 0
    for name in names or NAMES:
        if name in LEFT_OUT:
            print(f"{name:28} {'':>9}  left out: {LEFT_OUT[name]}", flush=True)
            continue
        try:
            outcome = outcome_of(name)
        except Exception as error:  # every name has its line
            outcome = Outcome(name, wrong=f"{type(error).__name__}: {' '.join(str(error).split())[:150]}")
        failed += outcome.wrong is not None
        print(outcome, flush=True)
    print(f"{failed} fail")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
