"""Stage `sample`: a sheet of pictures from each sampler, from fixed seeds, and one of real pictures to hold beside."""

import re
from typing import TYPE_CHECKING, Any

from pipeline.run.stage import Context
from recipes.common.stages import family_module

if TYPE_CHECKING:
    from recipes.common.images.dataset import PreparedImages

COLUMNS_OF_CLASSES = 20  # up to so many classes, each has a column of its own


def check(config: Any) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write real.png and a PNG a sampler; picture i has seed `sample.seed` + i and label i modulo the classes."""
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.images.sheet import save_sheet

    settings, prepared, trained = context.config.sample, context.inputs["prepare"], context.inputs["train"]
    held_out = PreparedImages.open(prepared, "held_out")
    seeds, labels = requests(held_out, settings.seed, settings.samples)
    columns = columns_of(len(held_out.classes))
    save_sheet(real_pictures(held_out, labels), context.out / "real.png", columns)
    samplers = family_module(context.config, "sampler").load_samplers(context.config, prepared, trained)
    for name, sampler in samplers.items():
        context.terminal.write(f"sample: {settings.samples} pictures, {name}\n")
        save_sheet(sampler(seeds, labels), context.out / f"{slug(name)}.png", columns)
    return {"pictures": settings.samples, "samplers": len(samplers)}


def requests(images: "PreparedImages", first: int, count: int) -> tuple[list[int], list[int]]:
    """Seeds from `first` on, and the label of each: its place modulo the classes, 0 where there are none."""
    return list(range(first, first + count)), labels_in_turn(count, len(images.classes))


def labels_in_turn(count: int, classes: int) -> list[int]:
    """The label of each of `count` pictures on a sheet: 0 where there are no classes."""
    return [place % max(1, classes) for place in range(count)]


def columns_of(classes: int) -> int | None:
    """A column a class, where a sheet is not too wide for it."""
    return classes if 1 < classes <= COLUMNS_OF_CLASSES else None


def real_pictures(images: "PreparedImages", labels: list[int]) -> Any:
    """A held-out picture for each label, each at most once while there are enough, uint8 (N, H, W, C).

    For a class that has none held out, such as one of a thousand, any picture stands in.
    """
    import numpy as np

    anything = np.arange(len(images.labels))
    places = [np.flatnonzero(images.labels == label) for label in range(len(images.classes))]
    places = [found if len(found) else anything for found in places] or [anything]
    taken = [0] * len(places)
    chosen = []
    for label in labels:
        chosen.append(places[label][taken[label] % len(places[label])])
        taken[label] += 1
    return images.images[chosen]


def slug(name: str) -> str:
    """A sampler's name as a file name: `EMA, DDIM 20 steps` as `ema-ddim-20-steps`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("sample")
