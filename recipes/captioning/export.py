"""Stage `export`: a directory that transformers loads, whose captions in a fresh process are the live model's."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.publish.licences import check_licence
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.captioning.config import CaptioningConfig

if TYPE_CHECKING:
    from recipes.captioning.processor import Eyes
    from recipes.common.card import About

EXAMPLES, FILE = "examples", "describe.py"
TAGS = {"library_name": "transformers", "pipeline_tag": "image-to-text", "tags": ["captioning"]}


def check(config: CaptioningConfig) -> None:
    """Raises UserError for a licence that is none."""
    check_licence("export.licence", config.export.licence)


def run(context: Context) -> dict[str, Any]:
    """Write the model, its processor, describe.py, examples/ and the card.

    Raises:
        RuntimeError: the directory alone says something else than the live model; nothing is published.
    """
    import numpy as np

    from recipes.captioning.model import DIRECTORY, load
    from recipes.captioning.processor import Eyes
    from recipes.common import card
    from recipes.common.alone import compare
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.images.sheet import encoded

    config, inputs, out = context.config, context.inputs, context.out
    model, eyes = load(inputs["train"] / DIRECTORY), Eyes(inputs["processor"])
    held_out = PreparedImages.open(inputs["prepare"], "held_out")
    pictures = np.asarray(held_out.images[: config.export.pictures])
    write(model, eyes, config, out)
    (out / EXAMPLES).mkdir()
    files = [out / EXAMPLES / f"{number}.png" for number in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        file.write_bytes(encoded(picture, "PNG"))
    said = live(model, eyes, pictures, config)
    measured = {"captions_equal": compare(said_afresh(out, files), said)}
    write_json(out / EXAMPLES / "captions.json", dict(zip([file.name for file in files], said, strict=True)))
    about = _about(config, measured, said[0])
    (out / "README.md").write_text(card.render(context, about), "utf-8")
    return measured


def write(model: Any, eyes: "Eyes", config: CaptioningConfig, out: Path) -> None:
    """The directory that AutoModelForImageTextToText and AutoProcessor load, prompt.json and describe.py."""
    from recipes.captioning import alone
    from recipes.captioning.processor import FACTS

    model.save_pretrained(out)
    eyes.processor.save_pretrained(out)
    write_json(out / FACTS, {"prompt": eyes.prompt, "max_new_tokens": config.decoding.max_new_tokens})
    (out / FILE).write_text(Path(alone.__file__).read_text("utf-8"), "utf-8")


def live(model: Any, eyes: "Eyes", pictures: Any, config: CaptioningConfig) -> list[str]:
    """Captions one at a time, in the shapes that a stranger's own call has."""
    from recipes.captioning.describe import written

    alone_each = config.decoding.model_copy(update={"batch_size": 1})
    return [written(model, eyes, picture[None], alone_each)[0] for picture in pictures]


def said_afresh(directory: Path, pictures: list[Path]) -> list[str]:
    """What describe.py says, in a process that has no module of ours. Raises RuntimeError where it fails."""
    from recipes.common.alone import run_alone

    return json.loads(run_alone(directory, FILE, *map(str, pictures)))


def _about(config: CaptioningConfig, measured: dict[str, int], said: str) -> "About":
    from pipeline.publish.model_card import fenced
    from recipes.common.card import About, checks
    from recipes.common.images.prepare import licence_of

    use = f"python {FILE} PICTURE ...     # with transformers and pillow alone"
    text = f"Loaded in a fresh process by `{FILE}`; the captions of `{EXAMPLES}/` were compared with the live model's."
    return About(
        kind=f"captions of {config.data.image_size} x {config.data.image_size} pictures",
        shown=f"![a picture]({EXAMPLES}/0.png)\n\n{said}",
        use=fenced(use, "sh"),
        tags=TAGS,
        classes=(),
        licence=licence_of(config.data),
        checked=checks(text, measured),
    )


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("export")
