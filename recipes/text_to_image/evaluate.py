"""Stage `evaluate`: every score of a diffusion model, whether captions are drawn right, and found again both ways.

What is right is read off a picture by a program where the captions are scenes (recipes.common.images.scene_reader).
Shapes: N pictures.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from pipeline.scores.intervals import wilson_interval
from recipes.text_to_image.config import TextToImageConfig

if TYPE_CHECKING:
    import numpy as np

    from recipes.text_to_image.captions import Captions
    from recipes.text_to_image.retrieval import Retriever

RIGHT = "captions drawn right"
REAL, CHANCE = "real pictures", "chance"
TITLES = {"held_out": "held out", "train": "training"}  # split -> of which captions
PARTS = ("colour", "shape", "count", "relation")


def check(config: TextToImageConfig) -> None:
    """Raises UserError where a network that scores look through will not be there."""
    from recipes.common.scores.scoring import check_scores

    check_scores(config.evaluate, None)


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json; the metrics are the held-out error and the best sampler's scores."""
    from recipes.common.scores.scoring import image_scores
    from recipes.diffusion.evaluate import held_out_scores
    from recipes.text_to_image.captions import Captions
    from recipes.text_to_image.retrieval import load_retriever, network_of
    from recipes.text_to_image.sampler import load_painter, load_samplers
    from recipes.text_to_image.text_to_image import TextToImage

    config: TextToImageConfig = context.config
    inputs = context.inputs
    prepared, trained, captions = inputs["prepare"], inputs["train"], Captions.open(inputs["captions"])

    def say(line: str) -> None:
        context.terminal.write(f"evaluate: {line}\n")

    own = held_out_scores(TextToImage(config, prepared, captions), load_painter(config, trained))
    samplers = load_samplers(config, prepared, trained)
    first = next(iter(samplers))
    retriever = load_retriever(inputs["retrieval"])
    told = [
        score
        for split in TITLES
        for score in _told(config, prepared, split, samplers[first], first, captions, retriever, say)
    ]
    drawn, missing = image_scores(
        samplers, prepared, network_of(retriever, prepared), config.evaluate, say, conditional=False
    )
    scores = [*own, *told, *drawn]
    write_json(context.out / "evaluation.json", {"scores": [s.as_json() for s in scores], "missing": missing})
    return {score.key: score.value for score in scores if score in own or score.model == first}


def _told(
    config: TextToImageConfig,
    prepared: Path,
    split: str,
    sampler: Callable[[list[int], list[int]], "np.ndarray"],
    name: str,
    captions: "Captions",
    retriever: "Retriever",
    say: Callable[[str], None],
) -> list[Score]:
    """The scores of one picture of each of `evaluate.captions` captions of a split, picture i with seed i."""
    import numpy as np

    from recipes.common.images.dataset import PreparedImages
    from recipes.text_to_image.retrieval import AMONG, found_among

    images = PreparedImages.open(prepared, split)
    _, firsts = np.unique(images.labels, return_index=True)
    places = np.sort(firsts)[: config.evaluate.captions]  # pictures lie in hashed order
    labels = images.labels[places]
    title = TITLES[split]
    say(f"drawing {len(labels)} captions, {title}")
    made = sampler(list(range(len(labels))), labels.tolist())
    pictures = {name: made, REAL: images.images[places]}
    found: list[Score] = []
    if config.data.source == "scenes":
        found += _right(pictures, [images.classes[label] for label in labels], title)
    told_NE = retriever.of_captions(captions, labels)
    chance = float(
        np.mean([1 / len(part) for part in np.array_split(labels, range(AMONG, len(labels), AMONG))])
    )
    for model, shown in pictures.items():
        rows_NE = retriever.of_pictures(shown)
        for what, one, other in (
            ("pictures found by their caption", told_NE, rows_NE),
            ("captions found by their picture", rows_NE, told_NE),
        ):
            hits = found_among(one, other, labels)
            found.append(_share(f"{what}, {title}", model, hits, FOUND.format(among=AMONG)))
    for what in ("pictures found by their caption", "captions found by their picture"):
        protocol = f"one of {AMONG}, or of as many as there are"
        found.append(
            Score(f"{what}, {title}", CHANCE, chance, None, "share", len(labels), protocol, "higher")
        )
    return found


FOUND = (
    "captions and pictures in groups of {among}: those whose nearest of the other kind is their own, by two nets that "
    "learnt on training pictures which belong together; Wilson interval"
)
READ = (
    "pictures whose patches of colour, as a program finds them, are what the caption says: {part}; {model}; "
    "Wilson interval"
)
MEANT = {
    "": "colours, shapes, counts and the relation of the two groups",
    "colour": "exactly the colours",
    "shape": "exactly the colours, each with its shape",
    "count": "as many of each colour, and no more",
    "relation": "every patch of one group on its side of every one of the other's; captions of two groups alone",
}


def _right(pictures: "dict[str, np.ndarray]", captions: list[str], title: str) -> list[Score]:
    """Of drawn pictures, of real ones, and of drawn ones held against the next caption's scene, which is chance."""
    from recipes.common.images.scene_reader import held
    from recipes.common.images.scenes import scene_of

    scenes = [scene_of(caption) for caption in captions]
    made = next(iter(pictures.values()))
    pairs = {model: zip(shown, scenes, strict=True) for model, shown in pictures.items()}
    pairs[CHANCE] = zip(made, [*scenes[1:], scenes[0]], strict=True)
    said = {REAL: "real ones", CHANCE: "drawn ones against another caption"}
    found = []
    for model, pair in pairs.items():
        read = [held(picture, scene) for picture, scene in pair]
        flags: dict[str, list[bool]] = {"": [one.whole for one in read]}
        flags |= {
            part: [value for one in read if (value := getattr(one, part)) is not None] for part in PARTS
        }
        for part, values in flags.items():
            if values:
                name = f"{RIGHT}, {part}, {title}" if part else f"{RIGHT}, {title}"
                protocol = READ.format(part=MEANT[part], model=said.get(model, "drawn ones"))
                found.append(_share(name, model, values, protocol))
    return found


def _share(name: str, model: str, flags: Any, protocol: str) -> Score:
    count, hits = len(flags), int(sum(flags))
    return Score(name, model, hits / count, wilson_interval(hits, count), "share", count, protocol, "higher")


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
