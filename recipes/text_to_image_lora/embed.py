"""Stage `embed`: latents of every picture and states of every caption, by the base's own frozen encoders, once.

Shapes: N pictures, C latent channels, H rows and W columns of latents, K captions and the empty one, which stands last.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.text_to_image_lora.config import LoraConfig

if TYPE_CHECKING:
    import numpy as np

FACTS = "embedded.json"
SPLITS = ("train", "held_out")


@dataclass(frozen=True)
class Embedded:
    """One split of a published artifact.

    moments: mean and standard deviation of each picture's latents, as the denoiser sees them, fp32 (N, 2, C, H, W);
    labels: the row of each picture's caption, int64 (N,); told: what the denoiser attends to, by name, (K + 1, ...).
    """

    moments: "np.ndarray"
    labels: "np.ndarray"
    told: "dict[str, np.ndarray]"

    @classmethod
    def open(cls, embedded: Path, prepared: Path, split: str) -> "Embedded":
        import numpy as np

        names = json.loads((embedded / FACTS).read_text("utf-8"))["told"]
        return cls(
            np.load(embedded / f"{split}.moments.npy", mmap_mode="r"),
            np.load(prepared / f"{split}.labels.npy"),
            {name: np.load(embedded / f"told.{name}.npy", mmap_mode="r") for name in names},
        )


def check(config: LoraConfig) -> None:
    """Raises UserError for a base that is not there, of another kind, or whose pictures have another size."""
    from recipes.text_to_image_lora.bases import base_of, multiple_of

    base = base_of(config.model.pretrained)
    multiple, side = multiple_of(config.model.pretrained, base), config.data.image_size
    if side % multiple:
        raise UserError(
            f"data.image_size = {side} is not a multiple of {multiple}, by which this base's nets halve pictures\n"
            f"way out: data.image_size={-(-side // multiple) * multiple}"
        )


def run(context: Context) -> dict[str, Any]:
    """Write SPLIT.moments.npy, told.NAME.npy and embedded.json."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.text_to_image_lora.bases import base_of, load_pipeline

    config, prepared, out = context.config, context.inputs["prepare"], context.out
    pretrained, settings = config.model.pretrained, config.embed
    base, pipeline = base_of(pretrained), load_pipeline(pretrained)
    counts = {}
    for split in splits_of(prepared):
        images = PreparedImages.open(prepared, split)
        counts[split] = len(images.labels)
        context.terminal.write(f"embed: {counts[split]} pictures, {split}\n")
        _write_moments(pipeline.vae, images.images, settings.batch_size, out / f"{split}.moments.npy")
    captions = [*images.classes, ""]
    context.terminal.write(f"embed: {len(captions) - 1} captions\n")
    names = _write_told(base, pipeline, captions, settings, out)
    write_json(out / FACTS, {"told": names})
    return counts | {"captions": len(captions) - 1}


def splits_of(prepared: Path) -> list[str]:
    """The splits that have pictures: nothing may be held out of a handful."""
    return [split for split in SPLITS if (prepared / f"{split}.images.npy").is_file()]


def _write_moments(vae: Any, images: "np.ndarray", rows: int, file: Path) -> None:
    import numpy as np
    import torch

    from recipes.common.images.pixels import to_unit

    scale, shift = vae.config.scaling_factor, getattr(vae.config, "shift_factor", None) or 0.0
    out: Any = None
    for start in range(0, len(images), rows):
        part = np.arange(start, start + rows) % len(
            images
        )  # always as many: a product's rounding depends on them
        pixels = to_unit(torch.from_numpy(images[part]).to(vae.device)).contiguous()
        with torch.inference_mode():
            found = vae.encode(pixels.expand(-1, 3, -1, -1)).latent_dist
        both = torch.stack([(found.mean - shift) * scale, found.std * scale], dim=1).float().cpu().numpy()
        if out is None:
            out = np.lib.format.open_memmap(file, "w+", np.float32, (len(images), *both.shape[1:]))
        count = min(rows, len(images) - start)
        out[start : start + count] = both[:count]
    out.flush()


def _write_told(base: Any, pipeline: Any, captions: list[str], settings: Any, out: Path) -> list[str]:
    import numpy as np
    import torch

    from recipes.text_to_image_lora.bases import pixels_of_a_latent

    arrays: dict[str, Any] = {}
    scale = pixels_of_a_latent(pipeline.vae.config)
    for place, caption in enumerate(captions):
        with torch.inference_mode():
            told = base.told(pipeline, [caption], settings.max_length)
        told["scale"] = torch.tensor([float(scale)])
        for name, value in told.items():
            row = value[0].float().cpu().numpy()
            if name not in arrays:
                shape = (len(captions), *row.shape)
                arrays[name] = np.lib.format.open_memmap(out / f"told.{name}.npy", "w+", np.float32, shape)
            arrays[name][place] = row
    for array in arrays.values():
        array.flush()
    return sorted(arrays)


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("embed")
