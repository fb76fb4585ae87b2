"""Transcripts of clips: the likeliest token after token, always as many clips at a time."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from recipes.transcription.config import Decoding, TranscriptionConfig

if TYPE_CHECKING:
    import numpy as np

    from recipes.transcription.processor import Ears


def written(model: Any, ears: "Ears", clips: "list[np.ndarray]", decoding: Decoding) -> list[str]:
    """The transcript of each clip int16 (T,), whatever stands beside it."""
    import torch

    found: list[str] = []
    for start in range(0, len(clips), decoding.batch_size):
        rows = [row % len(clips) for row in range(start, start + decoding.batch_size)]
        features = ears([clips[row] for row in rows]).to(model.device)
        with torch.inference_mode():
            ids = model.generate(features, do_sample=False, max_new_tokens=decoding.max_new_tokens)
        found += ears.said(ids)
    return found[: len(clips)]


def transcripts_of(config: TranscriptionConfig, clips: list[Path]) -> list[str]:
    """`headwater transcribe`.

    Raises:
        UserError: nothing is trained yet, or a file is no clip that the model can hear.
    """
    from transformers.utils import logging

    from pipeline.data.rows import BadRow
    from recipes.common.audio.decode import decoded
    from recipes.common.drawn import trained_of
    from recipes.transcription.model import DIRECTORY, load
    from recipes.transcription.processor import Ears

    trained = trained_of(config.run.output_dir)
    # A clip of one's own is brought to the model's rate, whatever the training data had to be.
    lenient = {"on_rate": "resample", "on_channels": "mix", "on_clipped": "keep"}
    heard, waves = config.data.model_copy(update=lenient), []
    for clip in clips:
        try:
            waves.append(decoded(clip.read_bytes(), clip.name, heard, Counter()))
        except OSError as error:
            raise UserError(f"cannot read {clip}: {error.strerror}") from None
        except BadRow as bad:
            raise UserError(f"{clip}: {bad}") from None
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # generate() warns of its own arguments
    model, ears = load(trained / DIRECTORY), Ears(trained.parent / "processor")
    return written(model, ears, waves, config.decoding)
