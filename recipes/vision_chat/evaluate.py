"""Stage `evaluate`: held-out answers' nats with their pictures and with grey ones, before and after training; and last
answers written anew."""

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from pipeline.scores.intervals import bootstrap_interval, wilson_interval
from recipes.vision_chat.config import VisionChatConfig

if TYPE_CHECKING:
    from recipes.vision_chat.chatter import Chatter

MODEL, BEFORE, GREY = "model", "before training", "model, grey pictures"
REPLIES = "replies.json"


def check(config: VisionChatConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json, and replies.json: last answers of held-out rows by each model."""
    from pathlib import Path

    from recipes.captioning.evaluate import chrf
    from recipes.captioning.model import DIRECTORY, load
    from recipes.vision_chat.chatter import Chatter
    from recipes.vision_chat.prepare import Talks
    from recipes.vision_chat.replies import asked_of, replies

    config, inputs = context.config, context.inputs
    settings = config.evaluate
    recipe = Chatter(config, inputs["prepare"], inputs["tokenize"])
    talks = Talks(inputs["prepare"], "held_out")
    shown = range(min(settings.replies, len(talks)))
    questions = [asked_of(talks.messages[row]) for row in shown]
    asked = [(messages, talks.pictures(row)) for row, (messages, _) in zip(shown, questions, strict=True)]
    own = [answer for _, answer in questions]
    context.terminal.write(f"evaluate: {len(talks)} held-out rows\n")
    scores, said = [], {}
    for name, place in (
        (MODEL, inputs["train"] / DIRECTORY),
        (BEFORE, Path(config.model.pretrained).expanduser()),
    ):
        model = load(place)
        scores.append(_nats(name, *nats_of(recipe, model, settings.rows, grey=False), settings.resamples))
        if name == MODEL:
            scores.append(_nats(GREY, *nats_of(recipe, model, settings.rows, grey=True), settings.resamples))
        said[name] = replies(model, recipe.sight, asked, config.decoding)
    said["another row's answer"] = [*own[1:], own[0]]
    scores += [_right(name, texts, own) for name, texts in said.items()]
    overlap, missing = chrf(said, own, settings.resamples, "rows")
    scores += overlap
    write_json(context.out / "evaluation.json", {"scores": [s.as_json() for s in scores], "missing": missing})
    write_json(context.out / REPLIES, {"own": own, **said})
    return {score.key: score.value for score in scores if score.model == MODEL}


def nats_of(recipe: "Chatter", model: Any, rows: int | None, grey: bool) -> tuple[np.ndarray, np.ndarray]:
    """(nats, taught tokens) of each held-out row, one at a time; grey: pictures of the same sizes that show nothing."""
    import torch

    from recipes.captioning.captioner import CaptionNats

    split, net = recipe.held_out(), CaptionNats(model)
    nats, counts = [], []
    for index in range(min(rows or split.length, split.length)):
        item = split.item(index)
        if grey:
            item["pictures"] = [_grey(picture) for picture in item["pictures"]]
        batch = recipe.collate([item])
        with torch.inference_mode():
            given = {name: value.to(model.device) for name, value in batch.items()}
            nats.append(float(net(**given).double().sum()))
        counts.append(recipe.count("chatter", batch))
    return np.array(nats), np.array(counts)


def _grey(picture: bytes) -> bytes:
    import io

    from PIL import Image

    from recipes.vision_chat.rows import opened

    out = io.BytesIO()
    Image.new("RGB", opened(picture).size, (128, 128, 128)).save(out, "PNG")
    return out.getvalue()


def _nats(name: str, nats: np.ndarray, counts: np.ndarray, resamples: int) -> Score:
    protocol = "of answers' tokens; 95% bootstrap interval over rows"
    interval = bootstrap_interval(nats, counts, resamples, seed=0)
    value = float(nats.sum() / counts.sum())
    return Score("held-out nats a token", name, value, interval, "nats/token", len(nats), protocol, "lower")


def _right(name: str, said: list[str], own: list[str]) -> Score:
    """Answers that are, but for letters' case, marks at the end and white space, what stands there."""
    flags = [plain(one) == plain(other) for one, other in zip(said, own, strict=True)]
    protocol = "last answers that are the row's own, whatever case and last mark; Wilson interval"
    hits, count = sum(flags), len(flags)
    interval = wilson_interval(hits, count)
    return Score("answers right", name, hits / count, interval, "share", count, protocol, "higher")


def plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".!?")


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
