"""Stage `evaluate`: nats a note of held-out pieces beside counting; drawn pieces beside real ones."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from recipes.music.config import MusicConfig

if TYPE_CHECKING:
    import numpy as np

    from recipes.common.symbols.model import Decoder

PITCHES, GROOVE, SHARED, ERRORS = (
    "pitch-class distance",
    "groove distance",
    "longest melody shared with training",
    "words out of place",
)


def check(config: MusicConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json; the metrics are its scores by name."""
    from recipes.common.symbols.model import Decoder

    decoder = Decoder.load(context.inputs["train"] / "model")
    scores = _likelihood(decoder, context) + _drawn(decoder, context)
    write_json(context.out / "evaluation.json", {"scores": [score.as_json() for score in scores]})
    return {score.key: score.value for score in scores}


def _likelihood(decoder: "Decoder", context: Context) -> list[Score]:
    from recipes.common.symbols.likelihood import likelihood
    from recipes.music.baselines import RepeatedBar
    from recipes.music.words import BAR, notes_of

    def again(learnt: list["np.ndarray"]) -> dict[str, Any]:
        model = RepeatedBar(learnt, decoder.tokenizer.convert_tokens_to_ids(BAR), len(decoder.tokenizer))
        said = f"each word as a bar before, with probability {model.share:.2f}, or as often as it comes"
        return {"the bar before, again": (model.nats, said)}

    pieces = context.config.evaluate.pieces
    return likelihood(decoder, context, pieces, "note", lambda line: notes_of(line["text"]), again)


def _drawn(decoder: "Decoder", context: Context) -> list[Score]:
    import numpy as np

    from recipes.music import scores
    from recipes.music.edit import drawn
    from recipes.music.words import errors_of, score_of

    config, settings = context.config, context.config.evaluate
    context.terminal.write(f"evaluate: drawing {settings.drawn} pieces\n")
    texts = {
        "model": drawn(decoder, range(settings.seed, settings.seed + settings.drawn), config.decoding),
        "held-out pieces": _originals(context.inputs["prepare"], "held_out")[: settings.drawn],
        "training pieces": _originals(context.inputs["prepare"], "train"),
    }
    texts["training pieces"] = _spread(texts["training pieces"], settings.drawn)
    pieces = {name: [score_of(text, config.data) for text in found] for name, found in texts.items()}
    classes = {
        name: np.stack([scores.pitch_classes(piece) for piece in found]) for name, found in pieces.items()
    }
    grooves = {name: np.array([scores.groove(piece) for piece in found]) for name, found in pieces.items()}
    held = len(pieces["held-out pieces"])
    made = []
    for title, values, distance, protocol in (
        (
            PITCHES,
            classes,
            scores.histogram_distance,
            "total variation of the time on pitch classes above the commonest",
        ),
        (
            GROOVE,
            grooves,
            scores.value_distance,
            "Wasserstein distance of how alike a piece's bars of four beats are",
        ),
    ):
        for name in ("model", "training pieces"):
            interval = scores.distance_interval(
                distance, values[name], values["held-out pieces"], settings.resamples, settings.seed
            )
            said = f"{protocol}; {len(values[name])} pieces against {held} held out; 95% bootstrap interval over both"
            value = distance(values[name], values["held-out pieces"])
            made.append(Score(title, name, value, interval, "", len(values[name]), said, "lower"))
    shared = scores.Shared(json.loads((context.inputs["prepare"] / "melodies.json").read_text()))
    for name in ("model", "held-out pieces"):
        runs = np.array([shared.longest(piece) for piece in pieces[name]], float)
        said = f"intervals of the top line in a row, in any key; mean, the longest of all {runs.max():.0f}"
        made.append(_mean(SHARED, name, runs, "intervals", said, settings))
        errors = np.array([errors_of(text, config.data) for text in texts[name]])
        made.append(
            _mean(
                ERRORS, name, errors, "", "share of words that REMI would not put there (miditok)", settings
            )
        )
    return made


def _mean(title: str, model: str, values: "np.ndarray", unit: str, protocol: str, settings: Any) -> Score:
    import numpy as np

    from pipeline.scores.intervals import bootstrap_interval

    interval = bootstrap_interval(values, np.ones(len(values)), settings.resamples, settings.seed)
    said = f"{protocol}; 95% bootstrap interval over pieces"
    return Score(title, model, float(values.mean()), interval, unit, len(values), said, "lower")


def _originals(prepared: Path, split: str) -> list[str]:
    """Pieces as they are, none of their copies."""
    from recipes.common.symbols.tokenize import records

    return [record["text"] for record in records(prepared, split) if record["copy"] == 0]


def _spread(texts: list[str], count: int) -> list[str]:
    """`count` of them, evenly from first to last."""
    return texts[:: max(1, len(texts) // count)][:count]


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
