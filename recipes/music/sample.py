"""Stage `sample`: pieces drawn, continued and filled in beside real ones, as MIDI, piano rolls and sound."""

from typing import Any

from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.music.config import MusicConfig


def check(config: MusicConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write KIND-NN.mid and .wav of each piece, KIND.png with their piano rolls, and sounds.json.

    Piece i of each kind has seed `sample.seed` + i; held-out piece i is the real one, continued and filled in: its
    middle third is made anew.
    """
    import numpy as np

    from recipes.common.audio.wav import write_wav
    from recipes.common.images.sheet import save_sheet
    from recipes.common.symbols.model import Decoder
    from recipes.common.symbols.tokenize import records
    from recipes.music import edit, render
    from recipes.music.words import bars_of, score_of

    config, settings = context.config, context.config.sample
    decoder = Decoder.load(context.inputs["train"] / "model")
    held = [record for record in records(context.inputs["prepare"], "held_out")]
    held = [record for record in held if len(bars_of(record["text"].split())) > settings.given_bars + 2]
    held = held[: settings.samples]
    seeds = list(range(settings.seed, settings.seed + settings.samples))
    texts: dict[str, list[str]] = {
        "drawn": edit.drawn(decoder, seeds, config.decoding),
        "real": [],
        "continued": [],
        "filled": [],
    }
    captions: dict[str, list[str]] = {name: [] for name in texts}
    captions["drawn"] = [f"seed {seed}" for seed in seeds]
    for seed, record in zip(seeds, held, strict=False):
        bars, key = bars_of(record["text"].split()), record["key"]
        given, third = settings.given_bars, max(1, len(bars) // 3)
        texts["real"].append(record["text"])
        captions["real"].append(key)
        texts["continued"].append(edit.continued(decoder, bars[:given], seed, config.decoding))
        captions["continued"].append(f"{key}, bars 1 to {given} given")
        texts["filled"].append(edit.filled(decoder, bars, third, 2 * third, seed, config.decoding))
        captions["filled"].append(f"{key}, bars {third + 1} to {2 * third} new")
    sounds, heard = [], ""
    for kind, found in texts.items():
        scores = [score_of(text, config.data) for text in found]
        if not scores:
            continue
        save_sheet(np.stack([render.roll(score) for score in scores]), context.out / f"{kind}.png", 1)
        for number, (score, caption) in enumerate(zip(scores, captions[kind], strict=True)):
            name = f"{kind}-{number:02}"
            score.dump_midi(str(context.out / f"{name}.mid"))
            samples, heard = render.sound(score, settings.seconds)
            write_wav(context.out / f"{name}.wav", samples, render.RATE)
            sounds.append({"file": f"{name}.wav", "kind": kind, "caption": caption})
    write_json(context.out / "sounds.json", sounds)
    context.terminal.write(f"sample: {len(sounds)} pieces, heard through {heard}\n")
    return {"pieces": len(sounds), "kinds": sum(map(bool, texts.values()))}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("sample")
