"""Stage `evaluate`: captions of held-out pictures against their own, beside the nearest training picture's caption.

Of scenes every part of what is said is compared with the truth.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from pipeline.scores.intervals import bootstrap_interval, wilson_interval
from recipes.captioning.config import CaptioningConfig

if TYPE_CHECKING:
    from recipes.common.images.scenes import Scene

MODEL, NEAREST, CHANCE = "model", "nearest training picture", "chance"
RIGHT = "captions right"
CAPTIONS = "captions.json"


def check(config: CaptioningConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json, and captions.json: what each model says of the held-out pictures."""
    import numpy as np

    from recipes.captioning.describe import written
    from recipes.captioning.model import DIRECTORY, load
    from recipes.captioning.processor import Eyes
    from recipes.common.images.dataset import PreparedImages
    from recipes.common.scores.memorisation import as_pixels, nearest_rows

    config, inputs = context.config, context.inputs
    settings = config.evaluate
    train, held_out = (PreparedImages.open(inputs["prepare"], split) for split in ("train", "held_out"))
    count = min(settings.pictures, len(held_out.labels))
    pictures = np.asarray(held_out.images[:count])
    own = [held_out.classes[label] for label in held_out.labels[:count]]
    context.terminal.write(f"evaluate: captions of {count} held-out pictures\n")
    model, eyes = load(inputs["train"] / DIRECTORY), Eyes(inputs["processor"])
    nearest = nearest_rows(as_pixels(pictures), train.images, as_pixels)[0]
    said = {
        MODEL: written(model, eyes, pictures, config.decoding),
        NEAREST: [train.classes[label] for label in train.labels[nearest]],
        CHANCE: [*own[1:], own[0]],
    }
    scenes = config.data.source == "scenes"
    scores = [score for name, texts in said.items() for score in _right(name, texts, own, scenes)]
    overlap, missing = chrf(said, own, settings.resamples, "pictures")
    scores += overlap
    write_json(context.out / "evaluation.json", {"scores": [s.as_json() for s in scores], "missing": missing})
    write_json(context.out / CAPTIONS, {"own": own, **said})
    return {score.key: score.value for score in scores if score.model == MODEL}


def _right(name: str, said: list[str], own: list[str], scenes: bool) -> list[Score]:
    """Captions that are their picture's own, and of scenes every part."""
    protocol = f"{MEANT['']}; of the {name}; Wilson interval"
    whole = [same(one, other, scenes) for one, other in zip(said, own, strict=True)]
    found = [_share(RIGHT, name, whole, protocol)]
    if not scenes:
        return found
    from recipes.common.images.scenes import scene_of

    pairs = [(scene_of(one), scene_of(other)) for one, other in zip(said, own, strict=True)]
    for part, values_of in PARTS.items():
        of = [(one, other) for one, other in pairs if part != "relation" or other.second]
        flags = [one is not None and values_of(one) == values_of(other) for one, other in of]
        if not flags:  # no picture of two groups was held out
            continue
        protocol = f"{MEANT[part]}; of the {name}; Wilson interval"
        found.append(_share(f"{RIGHT}, {part}", name, flags, protocol))
    return found


def same(said: str, own: str, scenes: bool) -> bool:
    """Word for word, without case; `A above B` is `B below A`."""
    if not scenes:
        return said.lower() == own.lower()
    from recipes.common.images.scenes import scene_of

    one, other = scene_of(said), scene_of(own)
    return one is not None and one.arrangement == other.arrangement


PARTS: dict[str, Callable[["Scene"], Any]] = {
    "colour": lambda scene: sorted(group.colour for group in scene.groups),
    "shape": lambda scene: sorted((group.colour, group.shape) for group in scene.groups),
    "count": lambda scene: sorted((group.colour, group.count) for group in scene.groups),
    "relation": lambda scene: _order(scene),
}
MEANT = {
    "": "captions that say what the picture's own says, word for word, or the same scene the other way round",
    "colour": "captions with exactly the colours",
    "shape": "captions with exactly the colours, each with its shape",
    "count": "captions with exactly the colours, each as often",
    "relation": "captions whose first and second group, by colour, stand as they do; pictures of two groups alone",
}


def _order(scene: "Scene") -> Any:
    """(axis, colour of the smaller coordinate, of the larger), the same whichever group is named first."""
    from recipes.common.images.scenes import RELATIONS

    if scene.second is None:
        return None
    axis, before = RELATIONS[scene.relation]
    colours = (scene.first.colour, scene.second.colour)
    return axis, *(colours if before else colours[::-1])


def chrf(
    said: dict[str, list[str]], own: list[str], resamples: int, units: str
) -> tuple[list[Score], dict[str, str]]:
    """chrF of each (arXiv:W15-3049), by sacreBLEU where it is installed; units: what is averaged over."""
    try:
        from sacrebleu.metrics import CHRF
    except ImportError:
        return [], {"chrF": "sacrebleu is not installed: pip install 'headwater[translation]'"}
    import numpy as np

    metric, found = CHRF(), []
    for name, texts in said.items():
        values = np.array(
            [metric.sentence_score(one, [other]).score for one, other in zip(texts, own, strict=True)]
        )
        interval = bootstrap_interval(values, np.ones(len(values)), resamples, seed=0)
        protocol = (
            f"mean over {units} of sacreBLEU's sentence {metric.get_signature()}; 95% bootstrap interval"
        )
        found.append(Score("chrF", name, float(values.mean()), interval, "", len(texts), protocol, "higher"))
    return found, {}


def _share(name: str, model: str, flags: list[bool], protocol: str) -> Score:
    count, hits = len(flags), sum(flags)
    return Score(name, model, hits / count, wilson_interval(hits, count), "share", count, protocol, "higher")


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
