"""Stage `sample`: waves from fixed seeds beside real ones, as WAV files and as pictures."""

from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.wavenet.config import WaveNetConfig

if TYPE_CHECKING:
    import numpy as np

    from recipes.common.audio.dataset import PreparedAudio

COLUMNS = 4  # of the sheets


def check(config: WaveNetConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write a sheet and WAV files of each kind of wave, and sounds.json, which says what each is.

    Wave i has seed `sample.seed` + i, and is of class i modulo the classes, or has the mel frames of held-out clip i.
    """
    from recipes.common.audio.dataset import PreparedAudio
    from recipes.common.audio.pictures import save_sheet_of_sounds
    from recipes.common.audio.wav import write_wav
    from recipes.common.sample import slug
    from recipes.wavenet.nets import best_net

    config, rate = context.config, context.config.data.sample_rate
    held_out = PreparedAudio.open(context.inputs["prepare"], "held_out")
    context.terminal.write(f"sample: {config.sample.samples} waves of {config.sample.seconds:g} s\n")
    ways, captions = _waves(config, held_out, best_net(config, context.inputs["train"]), context)
    sounds = []
    for name, waves in ways.items():
        save_sheet_of_sounds(waves, rate, context.out / f"{slug(name)}.png", COLUMNS)
        for number, (wave, caption) in enumerate(zip(waves, captions[name], strict=True)):
            file = f"{slug(name)}-{number:02}.wav"
            write_wav(context.out / file, wave, rate)
            sounds.append({"file": file, "kind": name, "caption": caption})
    write_json(context.out / "sounds.json", sounds)
    return {"waves": config.sample.samples, "kinds": len(ways)}


def _waves(
    config: WaveNetConfig, held_out: "PreparedAudio", net: Any, context: Context
) -> tuple[dict[str, "np.ndarray"], dict[str, list[str]]]:
    """Waves int16 (N, T) of each kind, and what stands below each."""
    import numpy as np

    from recipes.wavenet.generate import sampler_of
    from recipes.wavenet.score import griffin_lim_of
    from recipes.wavenet.wavenet import requests

    settings = config.sample
    length = round(settings.seconds * config.data.sample_rate)
    seeds = list(range(settings.seed, settings.seed + settings.samples))
    like, labels = requests(config, context.inputs["prepare"], settings.samples)
    made = sampler_of(net, length, like)(seeds, labels)
    places = (
        _real_of(held_out, labels)
        if like is None
        else [number % len(held_out) for number in range(len(seeds))]
    )
    real = np.stack([_cut(held_out.clip(place), length) for place in places])
    said = [f"seed {seed}" for seed in seeds]
    if like is None and held_out.classes:
        said = [f"{held_out.classes[label]}, seed {seed}" for label, seed in zip(labels, seeds, strict=True)]
    names = [held_out.keys[place] for place in places]
    ways, captions = (
        {"real": real, "WaveNet": made},
        {"real": names, "WaveNet": said if like is None else names},
    )
    if like is not None:
        clips = [clip[:length] for clip in like]
        ways["Griffin-Lim"] = np.stack([_cut(griffin_lim_of(net, np.array(clip)), length) for clip in clips])
        captions["Griffin-Lim"] = names
    return ways, captions


def _real_of(held_out: "PreparedAudio", labels: list[int]) -> list[int]:
    """A held-out clip of each label, each at most once while there are enough; any where a class has none."""
    import numpy as np

    taken: dict[int, int] = {}
    found = []
    for label in labels:
        own = np.flatnonzero(held_out.labels == label) if held_out.classes else np.arange(len(held_out))
        own = own if len(own) else np.arange(len(held_out))
        found.append(int(own[taken.setdefault(label, 0) % len(own)]))
        taken[label] += 1
    return found


def _cut(wave_T: "np.ndarray", length: int) -> "np.ndarray":
    """Of that length: cut, or with silence behind it."""
    import numpy as np

    return np.pad(wave_T[:length], (0, max(0, length - len(wave_T))))


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("sample")
