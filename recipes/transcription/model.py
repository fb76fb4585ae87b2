"""The model: Whisper's classes with fresh weights, or a pretrained one, with adapters where they are asked for."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.run.errors import UserError
from recipes.transcription.config import Model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

    from pipeline.lm.config import Lora
    from recipes.transcription.processor import Ears

DIRECTORY = "model"


def config_of(model: Model, ears: "Ears", max_length: int) -> "PretrainedConfig":
    """The config of a model with fresh weights, for clips and transcripts as long as the recipe's."""
    from transformers import WhisperConfig

    from recipes.transcription.processor import START

    tokenizer, heard = ears.processor.tokenizer, ears.processor.feature_extractor
    return WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=heard.feature_size,
        d_model=model.hidden_size,
        encoder_layers=model.encoder_layers,
        decoder_layers=model.decoder_layers,
        encoder_attention_heads=model.num_attention_heads,
        decoder_attention_heads=model.num_attention_heads,
        encoder_ffn_dim=4 * model.hidden_size,
        decoder_ffn_dim=4 * model.hidden_size,
        max_source_positions=heard.nb_max_frames // 2,
        max_target_positions=len(ears.prefix) + max_length,
        dropout=model.dropout,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.convert_tokens_to_ids(START),
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def pretrained_config(name: str) -> "PretrainedConfig":
    """Raises UserError where `name` is no Whisper model, here or on the Hub."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(Path(name).expanduser())
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.pretrained: {name}: {' '.join(str(error).split())[:200]}\n"
            "expected: a directory, or a name that this machine has or can reach"
        ) from None
    if config.model_type != "whisper":
        raise UserError(
            f"model.pretrained: {name} is a {config.model_type}\n"
            "expected: a Whisper model, such as openai/whisper-small"
        )
    return config


def begun(config: "PretrainedConfig", pretrained: str | None, lora: "Lora | None") -> Any:
    """The model that training begins with, fp32; without weights where only shapes are asked (the meta device)."""
    from transformers import WhisperForConditionalGeneration

    from pipeline.lm.tuning.lora import add_adapters

    if pretrained and torch.get_default_device().type != "meta":
        model = WhisperForConditionalGeneration.from_pretrained(
            Path(pretrained).expanduser(), dtype=torch.float32, use_safetensors=True
        )
    else:
        model = WhisperForConditionalGeneration(config)
    return add_adapters(model, lora, task_type=None) if lora else model


def save(net: Any, weights: "dict[str, Tensor]", lora: "Lora | None", ears: "Ears", out: Path) -> None:
    """Write a directory that WhisperForConditionalGeneration loads, with trained weights, adapters merged."""
    from pipeline.lm.model import load_weights

    load_weights(net, weights)
    model = net.model.merge_and_unload() if lora else net.model
    _ask(model, ears)
    model.save_pretrained(out / DIRECTORY)


def _ask(model: "PreTrainedModel", ears: "Ears") -> None:
    """Generation begins as training did: with the prefix of the tokenizer."""
    from recipes.transcription.processor import NO_TIMES

    tokenizer, asked = ears.processor.tokenizer, model.generation_config
    asked.no_timestamps_token_id = tokenizer.convert_tokens_to_ids(NO_TIMES)
    asked.return_timestamps = False
    asked._from_model_config = (
        False  # or what is set here is made anew, without it, where the model is loaded
    )
    if tokenizer.language:
        asked.language, asked.task = tokenizer.language, "transcribe"
        asked.forced_decoder_ids = None


def load(directory: Path) -> "PreTrainedModel":
    """The model of a published `train` artifact, or of an export, on the GPU where there is one."""
    from transformers import WhisperForConditionalGeneration

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return WhisperForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval().to(device)
