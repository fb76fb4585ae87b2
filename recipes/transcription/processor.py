"""Stage `processor`: what makes a model's input of a clip, and tokens of a transcript.

Byte-level pieces learnt from the training transcripts where weights are fresh, the pretrained model's own otherwise.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.transcription.config import RATE, TranscriptionConfig

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import WhisperProcessor

    from recipes.common.audio.dataset import PreparedAudio

FOLDER = "processor"
END, START, NO_TIMES = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"


def check(config: TranscriptionConfig) -> None:
    """Raises UserError where the pretrained model is no Whisper, has no processor, or does not know the language."""
    from recipes.transcription.model import pretrained_config

    if config.model.pretrained:
        pretrained_config(config.model.pretrained)
        load_given(config)


def run(context: Context) -> dict[str, Any]:
    """Write processor/, and how many transcripts are too long.

    Raises:
        UserError: every training transcript is longer than train.max_length.
    """
    from recipes.common.audio.dataset import PreparedAudio

    config = context.config
    train = PreparedAudio.open(context.inputs["prepare"], "train")
    processor = load_given(config) if config.model.pretrained else _fresh(config, train)
    processor.save_pretrained(context.out / FOLDER)
    lengths = [len(ids) for ids in encoded(processor, [train.classes[label] for label in train.labels])]
    longer = sum(length > config.train.max_length for length in lengths)
    if longer == len(lengths):
        raise UserError(
            f"train.max_length = {config.train.max_length}: the shortest transcript has {min(lengths)} tokens\n"
            f"way out: train.max_length={max(lengths)} keeps all"
        )
    found = {"transcripts": len(lengths), "left_out_as_too_long": longer, "longest": max(lengths)}
    write_json(context.out / "ledger.json", {"transcripts": [found]})
    return found | {"vocabulary": len(processor.tokenizer)}


def load_given(config: TranscriptionConfig) -> "WhisperProcessor":
    """A pretrained model's own, which asks for a transcript in the language of the recipe.

    Raises:
        UserError: there is none beside it, or it does not know the language.
    """
    from transformers import WhisperProcessor

    model = config.model
    try:
        found = WhisperProcessor.from_pretrained(Path(model.pretrained).expanduser())
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"model.pretrained: {model.pretrained} has no processor that loads: "
            f"{' '.join(str(error).split())[:300]}\nexpected: its files beside the weights"
        ) from None
    if model.language:
        try:
            found.tokenizer.set_prefix_tokens(language=model.language, task="transcribe")
        except ValueError as error:
            raise UserError(f"model.language: {str(error)[:400]}") from None
    return found


def _fresh(config: TranscriptionConfig, train: "PreparedAudio") -> "WhisperProcessor":
    import json
    import math

    import numpy as np
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import WhisperFeatureExtractor, WhisperProcessor, WhisperTokenizer

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=config.model.vocabulary_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator([train.classes[label] for label in np.unique(train.labels)], trainer)
    learnt = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learnt["merges"]]
    vocabulary = {**learnt["vocab"], END: len(learnt["vocab"])}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=merges, pad_token=END)
    tokenizer.add_special_tokens({"additional_special_tokens": [START, NO_TIMES]})
    tokenizer.set_prefix_tokens()
    seconds = math.ceil(config.longest)
    ear = WhisperFeatureExtractor(
        feature_size=config.model.mel_bands, sampling_rate=RATE, chunk_length=seconds
    )
    return WhisperProcessor(ear, tokenizer)


class Ears:
    """A processor: clips to what the model hears, tokens to words."""

    def __init__(self, directory: Path):
        """directory: of the artifact, or of an export."""
        from transformers import WhisperProcessor

        folder = directory / FOLDER if (directory / FOLDER).is_dir() else directory
        self.processor: Any = WhisperProcessor.from_pretrained(folder)
        self.prefix: list[int] = self.processor.tokenizer.prefix_tokens

    def __call__(self, clips: "list[np.ndarray]") -> "Tensor":
        """Clips int16 (T,) as log-mel frames fp32 (B, M, F), with silence behind the shorter ones."""
        import numpy as np

        waves = [clip.astype(np.float32) / 32768 for clip in clips]
        heard = self.processor.feature_extractor(waves, sampling_rate=RATE, return_tensors="pt")
        return heard["input_features"]

    def said(self, ids: "Tensor") -> list[str]:
        """Tokens of transcripts (B, L) as words."""
        return [
            " ".join(text.split())
            for text in self.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
        ]


def encoded(processor: Any, transcripts: list[str]) -> list[list[int]]:
    """The tokens of each transcript, with the end behind it."""
    tokenizer = processor.tokenizer
    found = tokenizer(transcripts, add_special_tokens=False)["input_ids"]
    return [[*ids, tokenizer.eos_token_id] for ids in found]


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("processor")
