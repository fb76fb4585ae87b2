"""What tests of transcription share: clips whose words are tones, prepared, and a tiny Whisper of several languages."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile
import torch

from pipeline.run.stage import Context, Stage, open_recipe
from recipes.common.audio import prepare
from recipes.transcription import processor
from tests.helpers import ROOT

WORDS = {"do": 260, "re": 420, "mi": 680, "fa": 1100, "sol": 1780, "la": 2880}  # hertz of each
RATE = 16_000
SMALL = (
    "data.max_seconds=1",
    "model={hidden_size: 32, encoder_layers: 2, decoder_layers: 1, num_attention_heads: 2, mel_bands: 16,"
    " dropout: 0, vocabulary_size: 262}",
    "train.bf16=false",
    "train.warmup_steps=0",
    "train.augment={}",
    "train.max_length=12",
    "decoding.max_new_tokens=11",
    "decoding.batch_size=8",
)


def spoken(text: str) -> np.ndarray:
    """A quarter of a second of each word's tone, on [-1, 1)."""
    times = np.arange(RATE // 4) / RATE
    return np.concatenate([np.sin(2 * np.pi * WORDS[word] * times) / 3 for word in text.split()])


def write_clips(folder: Path, count: int = 60) -> Path:
    """NAME.wav and NAME.txt of one to three words each."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(count):
        text = " ".join(random.choice(list(WORDS), random.integers(1, 4)))
        soundfile.write(folder / f"{number:02}.wav", spoken(text), RATE)
        (folder / f"{number:02}.txt").write_text(text)
    return folder


def config_of(*overrides: str) -> Any:
    return open_recipe(ROOT / "recipes/transcription/tuxpaint.yaml", [*SMALL, *overrides])[0]


def of_folder(folder: Path) -> tuple[str, ...]:
    """The settings that read it."""
    return "data.source=folder", "data.languages=[]", f"data.path={folder}", "data.on_bad_row=error"


def context_of(config: Any, name: str, out: Path, **inputs: Path) -> Context:
    out.mkdir(parents=True, exist_ok=True)
    return Context(
        config, Stage(name, f"recipes.transcription.{name}", {}), inputs, out, out, out, io.StringIO()
    )


def write_inputs(directory: Path, config: Any) -> tuple[Path, Path]:
    """The artifacts of the clips and of the processor."""
    prepared, made = directory / "prepare", directory / "processor"
    if not prepared.exists():
        prepare.run(context_of(SimpleNamespace(data=config.data), "prepare", prepared))
    processor.run(context_of(config, "processor", made, prepare=prepared))
    return prepared, made


def write_whisper(out: Path) -> Path:
    """A tiny model of Whisper's class with random weights, which knows all of Whisper's languages by name."""
    from tokenizers import pre_tokenizers
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    torch.manual_seed(0)
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    end = {"<|endoftext|>": len(letters)}
    tokenizer = WhisperTokenizer(vocab=letters | end, merges=[], pad_token="<|endoftext|>")
    names = [f"<|{language}|>" for language in LANGUAGES]
    more = ["<|startoftranscript|>", *names, "<|translate|>", "<|transcribe|>", "<|notimestamps|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": more})
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in more}
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=16,
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=50,
        max_target_positions=24,
        init_std=0.2,  # adapters cannot make more of weights that all but vanish
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=256,
        decoder_start_token_id=ids["<|startoftranscript|>"],
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():  # the end pads as well, whose row begins as zeros: adapters could never say it
        model.model.decoder.embed_tokens.weight[256].normal_(std=0.2)
    model.generation_config = GenerationConfig(
        bos_token_id=256,
        eos_token_id=256,
        pad_token_id=256,
        decoder_start_token_id=config.decoder_start_token_id,
        is_multilingual=True,
        lang_to_id={name: ids[name] for name in names},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
    )
    model.save_pretrained(out)
    ear = WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    WhisperProcessor(ear, tokenizer).save_pretrained(out)
    return out
