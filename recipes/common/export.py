"""Stage `export`: a directory that stands alone, compared with the live model in a fresh process before it appears."""

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.publish.licences import check_licence
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.common.afresh import run_afresh
from recipes.common.alone import run_alone
from recipes.common.images.config import Captioned
from recipes.common.stages import family_module

if TYPE_CHECKING:
    import numpy as np

    from recipes.common.card import About


def check(config: Any) -> None:
    """Raises UserError for a licence that is none."""
    check_licence("export.licence", config.export.licence)


def run(context: Context) -> dict[str, Any]:
    """Write what the family publishes, pictures.json with the request that was compared, a sheet of it and the card.

    Raises:
        RuntimeError: a fresh process draws other pictures from the directory; nothing is published.
    """
    from recipes.common import card
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.images.sheet import save_sheet
    from recipes.common.sample import columns_of, requests

    config, inputs, out = context.config, context.inputs, context.out
    prepared = PreparedImages.open(inputs["prepare"], "train")
    seeds, labels = requests(prepared, 0, config.export.pictures)
    exported = family_module(config, "exported")
    if hasattr(exported, "labels"):  # a family whose labels say more than a class
        labels = exported.labels(inputs["prepare"], inputs["train"], len(seeds))
    samplers = family_module(config, "sampler").load_samplers(config, inputs["prepare"], inputs["train"])
    live = next(iter(samplers.values()))(seeds, labels)
    exported.write(config, inputs["prepare"], inputs["train"], out)
    # Thousands of captions are no list.
    classes = () if isinstance(config.data, Captioned) else prepared.classes
    request = {"seeds": seeds, "labels": labels, "sampler": next(iter(samplers)), "classes": classes}
    write_json(out / "pictures.json", request)
    measured = compare(drawn_afresh(config.recipe, out), live)
    save_sheet(live, out / "pictures.png", columns_of(len(classes)))
    (out / "README.md").write_text(card.render(context, _about(config, measured, classes)), "utf-8")
    return measured


def _about(config: Any, measured: dict[str, int], classes: tuple[str, ...]) -> "About":
    from pipeline.publish.model_card import fenced
    from recipes.common.card import About, checks
    from recipes.common.images.prepare import licence_of

    exported, side = family_module(config, "exported"), config.data.image_size
    file = getattr(exported, "FILE", None)
    text = (
        f"`{file}` was run in a process that could import no module of ours; its pictures equal the live model's."
        if file
        else "Loaded in a fresh process; the pictures of pictures.json equal the live model's byte for byte."
    )
    return About(
        kind=f"{side} x {side} pictures",
        shown="![pictures](pictures.png)",
        use=fenced(exported.USAGE, "bash" if file else "python"),
        tags=exported.TAGS,
        classes=classes,
        licence=licence_of(config.data),
        checked=checks(text, measured),
    )


def drawn_afresh(family: str, directory: Path) -> "np.ndarray":
    """The pictures of `directory`/pictures.json, from a process that has never seen the live model.

    A family that publishes a file which draws is asked through it, with no module of ours in reach.

    Raises:
        RuntimeError: it drew none.
    """
    import numpy as np

    published = getattr(importlib.import_module(f"recipes.{family}.exported"), "FILE", None)
    if published:
        return drawn_alone(directory, published)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pictures.npy"
        done = run_afresh("recipes.common.draw_export", family, directory, file)
        print(done.stderr, file=sys.stderr, end="")
        if done.returncode:
            raise RuntimeError(f"the exported directory draws nothing:\n{done.stderr[-2000:]}")
        return np.load(file)


def drawn_alone(directory: Path, file: str) -> "np.ndarray":
    """As drawn_afresh, by the published `file` itself."""
    import numpy as np
    from PIL import Image

    seeds, labels = request_of(directory)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.png"
        run_alone(directory, file, str(out), "--seeds", *map(str, seeds), "--labels", *map(str, labels))
        with Image.open(out) as picture:
            row = np.asarray(picture)
    row = row[..., None] if row.ndim == 2 else row
    return np.stack(np.split(row, len(seeds), axis=1))


def compare(drawn: "np.ndarray", live: "np.ndarray") -> dict[str, int]:
    """How many pictures were compared; raises RuntimeError where a byte differs."""
    import numpy as np

    if drawn.shape != live.shape or not np.array_equal(drawn, live):
        same = drawn.shape == live.shape
        by = int(np.abs(drawn.astype(int) - live.astype(int)).max()) if same else "their shape"
        raise RuntimeError(
            f"the exported directory draws other pictures than the live model: they differ by {by}"
        )
    return {"pictures_equal": len(live)}


def request_of(directory: Path) -> tuple[list[int], list[int]]:
    """The seeds and labels that `pictures.png` was drawn from."""
    request = json.loads((directory / "pictures.json").read_text())
    return request["seeds"], request["labels"]


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("export")
