"""Stage `sample`: held-out clips to be heard, with what the model writes and what is said."""

from typing import Any

from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.transcription.config import RATE, TranscriptionConfig


def check(config: TranscriptionConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write clip-NN.wav, and sounds.json, which says what is written of each."""
    import numpy as np

    from recipes.common.audio.dataset import PreparedAudio
    from recipes.common.audio.wav import write_wav
    from recipes.transcription.decode import written
    from recipes.transcription.model import DIRECTORY, load
    from recipes.transcription.processor import Ears

    config, inputs = context.config, context.inputs
    held_out = PreparedAudio.open(inputs["prepare"], "held_out")
    clips = [np.array(held_out.clip(number)) for number in range(min(config.sample.clips, len(held_out)))]
    said = written(load(inputs["train"] / DIRECTORY), Ears(inputs["processor"]), clips, config.decoding)
    sounds = []
    for number, (clip, text) in enumerate(zip(clips, said, strict=True)):
        file, own = f"clip-{number:02}.wav", held_out.classes[held_out.labels[number]]
        write_wav(context.out / file, clip, RATE)
        sounds.append(
            {"file": file, "kind": "held-out clips", "caption": f"{text or 'nothing'} (said: {own})"}
        )
    write_json(context.out / "sounds.json", sounds)
    return {"clips": len(clips)}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("sample")
