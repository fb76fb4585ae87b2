"""A family's sampler that has seen the first pictures of the training split and no others, trained in this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes.common.stages import family_module

if TYPE_CHECKING:
    import numpy as np

    from recipes.common.images.dataset import PreparedImages

Draw = Callable[[list[int], list[int]], "np.ndarray"]


def sampler_of(
    config: Any, few: "PreparedImages", held_out: "PreparedImages", scratch: Path
) -> tuple[str, Draw]:
    """(what a reader calls it, seeds and labels to pictures) of the recipe's own training on `few` alone.

    scratch: an empty directory for what the training reads and leaves.
    """
    from recipes.common.training import save_nets, trained_here

    prepared, trained = scratch / "prepare", scratch / "train"
    trained.mkdir(parents=True)
    write_split(prepared, "train", few)
    write_split(prepared, "held_out", held_out)
    recipe = family_module(config, "train").recipe_of(config, prepared)
    save_nets(trained_here(recipe), recipe, trained)
    return next(iter(family_module(config, "sampler").load_samplers(config, prepared, trained).items()))


def write_split(directory: Path, split: str, images: "PreparedImages") -> None:
    """The files of a split of a `prepare` artifact that trainings read."""
    import numpy as np

    directory.mkdir(parents=True, exist_ok=True)
    np.save(directory / f"{split}.images.npy", images.images)
    np.save(directory / f"{split}.labels.npy", images.labels)
    (directory / "classes.json").write_text(json.dumps(images.classes), "utf-8")
