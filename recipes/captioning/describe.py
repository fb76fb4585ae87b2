"""Captions of pictures: the likeliest token after token, always as many pictures at a time."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from recipes.captioning.config import CaptioningConfig, Decoding

if TYPE_CHECKING:
    import numpy as np

    from recipes.captioning.processor import Eyes


def written(model: Any, eyes: "Eyes", pictures: "np.ndarray", decoding: Decoding) -> list[str]:
    """The caption of each picture uint8 (N, H, W, C), whatever stands beside it."""
    import numpy as np
    import torch

    device, found = next(model.parameters()).device, []
    for start in range(0, len(pictures), decoding.batch_size):
        rows = np.arange(start, start + decoding.batch_size) % len(pictures)
        given = {name: value.to(device) for name, value in eyes(list(pictures[rows])).items()}
        before = given["input_ids"].shape[1]
        with torch.inference_mode():
            ids = model.generate(**given, do_sample=False, max_new_tokens=decoding.max_new_tokens)
        found += eyes.said(ids[:, before:])
    return found[: len(pictures)]


def captions_of(config: CaptioningConfig, pictures: list[Path]) -> list[str]:
    """`headwater describe`.

    Raises:
        UserError: nothing is trained yet, or a file is no picture.
    """
    import numpy as np
    from transformers.utils.logging import disable_progress_bar

    from pipeline.data.rows import BadRow
    from recipes.captioning.model import DIRECTORY, load
    from recipes.captioning.processor import Eyes
    from recipes.common.drawn import trained_of
    from recipes.common.images.decode import decoded

    trained = trained_of(config.run.output_dir)
    # A picture of another size is scaled here, whatever the training data had to be.
    scaled = config.data.model_copy(update={"on_size": "crop"} if config.data.on_size == "error" else {})
    pixels = []
    for picture in pictures:
        try:
            pixels.append(decoded(picture.read_bytes(), scaled, Counter()))
        except OSError as error:
            raise UserError(f"cannot read {picture}: {error.strerror}") from None
        except BadRow as bad:
            raise UserError(f"{picture}: {bad}") from None
    disable_progress_bar()
    model, eyes = load(trained / DIRECTORY), Eyes(trained.parent / "processor")
    return written(model, eyes, np.stack(pixels), config.decoding)
