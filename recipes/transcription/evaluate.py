"""Stage `evaluate`: transcripts of held-out clips, beside those of the nearest training clip and of another clip."""

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from pipeline.scores.intervals import bootstrap_interval, wilson_interval
from recipes.transcription.config import TranscriptionConfig

if TYPE_CHECKING:
    from recipes.common.audio.dataset import PreparedAudio
    from recipes.transcription.processor import Ears

MODEL, NEAREST, CHANCE = "model", "nearest training clip", "another clip"
TRANSCRIPTS = "transcripts.json"
NORMALISER = "by Whisper's BasicTextNormalizer (small letters, no marks, nothing in brackets)"
SEARCHED = 20_000  # training clips among which the nearest is looked for; they lie in the order of a hash
SHAPE = 32  # frames that a clip is brought to before it is compared


def check(config: TranscriptionConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json, and transcripts.json: what each way makes of the held-out clips."""
    from recipes.common.audio.dataset import PreparedAudio
    from recipes.transcription.decode import written
    from recipes.transcription.model import DIRECTORY, load
    from recipes.transcription.processor import Ears

    config, inputs = context.config, context.inputs
    settings = config.evaluate
    train, held_out = (PreparedAudio.open(inputs["prepare"], split) for split in ("train", "held_out"))
    count = min(settings.clips or len(held_out), len(held_out))
    clips = [np.array(held_out.clip(number)) for number in range(count)]
    own = [held_out.classes[label] for label in held_out.labels[:count]]
    context.terminal.write(f"evaluate: {count} held-out clips\n")
    ears = Ears(inputs["processor"])
    nearest = nearest_clips(ears, clips, train)
    said = {
        MODEL: written(load(inputs["train"] / DIRECTORY), ears, clips, config.decoding),
        NEAREST: [train.classes[train.labels[number]] for number in nearest],
        CHANCE: [*own[1:], own[0]],
    }
    scores = [
        score for name, texts in said.items() for score in scores_of(name, texts, own, settings.resamples)
    ]
    write_json(context.out / "evaluation.json", {"scores": [s.as_json() for s in scores], "missing": {}})
    write_json(context.out / TRANSCRIPTS, {"own": own, **said})
    return {score.key: score.value for score in scores if score.model == MODEL}


def scores_of(name: str, said: list[str], own: list[str], resamples: int) -> list[Score]:
    """Error rates of words and of characters, and the share of transcripts without an error."""
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    plain = BasicTextNormalizer()
    pairs = [(plain(one).split(), plain(other).split()) for one, other in zip(said, own, strict=True)]
    letters = [(list(" ".join(one)), list(" ".join(other))) for one, other in pairs]
    found = []
    for title, units in (("word error rate", pairs), ("character error rate", letters)):
        errors = np.array([edits(one, other) for one, other in units])
        lengths = np.array([len(other) for _, other in units])
        protocol = f"edits over the length of what is said, {NORMALISER}; 95% bootstrap interval over clips"
        interval = bootstrap_interval(errors, lengths, resamples, seed=0)
        value = float(errors.sum() / lengths.sum())
        found.append(Score(title, name, value, interval, "share", len(units), protocol, "lower"))
    right = sum(one == other for one, other in pairs)
    protocol = f"equal {NORMALISER}; Wilson interval"
    interval = wilson_interval(right, len(pairs))
    share = right / len(pairs)
    return [
        *found,
        Score("transcripts right", name, share, interval, "share", len(pairs), protocol, "higher"),
    ]


def edits(said: list[str], own: list[str]) -> int:
    """Insertions, deletions and substitutions that lead from one to the other (Levenshtein 1966)."""
    row = list(range(len(own) + 1))
    for before, one in enumerate(said):
        diagonal, row[0] = row[0], before + 1
        for place, other in enumerate(own, 1):
            changed = diagonal + (one != other)
            diagonal, row[place] = row[place], min(changed, row[place] + 1, row[place - 1] + 1)
    return row[-1]


def nearest_clips(ears: "Ears", clips: list[np.ndarray], train: "PreparedAudio") -> list[int]:
    """For each clip the training clip with the most alike mel frames, both stretched to one length."""
    import torch

    searched = [np.array(train.clip(number)) for number in range(min(SEARCHED, len(train)))]
    there, asked = (torch.stack([_shape(ears, clip) for clip in each]) for each in (searched, clips))
    return torch.cat([torch.cdist(rows, there).argmin(1) for rows in asked.split(256)]).tolist()


def _shape(ears: "Ears", clip: np.ndarray) -> Any:
    """A clip's frames brought to SHAPE of them, flat."""
    import torch.nn.functional as F

    features = ears([clip])
    frames = max(1, min(len(clip) * 100 // 16_000, features.shape[-1]))
    return F.interpolate(features[..., :frames], SHAPE, mode="linear", align_corners=False).flatten()


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
