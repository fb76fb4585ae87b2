"""Stage `export`: a directory that transformers loads, whose transcripts in a fresh process are the live model's."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.publish.licences import check_licence
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.transcription.config import RATE, TranscriptionConfig

if TYPE_CHECKING:
    import numpy as np

    from recipes.common.card import About
    from recipes.transcription.processor import Ears

EXAMPLES, FILE = "examples", "transcribe.py"
TAGS = {"library_name": "transformers", "pipeline_tag": "automatic-speech-recognition", "tags": ["whisper"]}


def check(config: TranscriptionConfig) -> None:
    """Raises UserError for a licence that is none."""
    check_licence("export.licence", config.export.licence)


def run(context: Context) -> dict[str, Any]:
    """Write the model, its processor, transcribe.py, examples/ and the card.

    Raises:
        RuntimeError: the directory alone writes something else than the live model; nothing is published.
    """
    import numpy as np

    from recipes.common import card
    from recipes.common.alone import compare
    from recipes.common.audio.dataset import PreparedAudio
    from recipes.common.audio.wav import write_wav
    from recipes.transcription.model import DIRECTORY, load
    from recipes.transcription.processor import Ears

    config, inputs, out = context.config, context.inputs, context.out
    model, ears = load(inputs["train"] / DIRECTORY), Ears(inputs["processor"])
    held_out = PreparedAudio.open(inputs["prepare"], "held_out")
    clips = [np.array(held_out.clip(number)) for number in range(min(config.export.clips, len(held_out)))]
    write(model, ears, config, out)
    (out / EXAMPLES).mkdir()
    files = [f"{EXAMPLES}/{number}.wav" for number in range(len(clips))]
    for file, clip in zip(files, clips, strict=True):
        write_wav(out / file, clip, RATE)
    said = live(model, ears, clips, config)
    measured = {"transcripts_equal": compare(said_afresh(out, files), said)}
    write_json(out / EXAMPLES / "transcripts.json", dict(zip(files, said, strict=True)))
    (out / "README.md").write_text(card.render(context, _about(config, measured, said[0])), "utf-8")
    return measured


def write(model: Any, ears: "Ears", config: TranscriptionConfig, out: Path) -> None:
    """The directory that WhisperForConditionalGeneration and WhisperProcessor load, transcribe.py and its settings."""
    from recipes.transcription import alone

    model.save_pretrained(out)
    ears.processor.save_pretrained(out)
    write_json(out / "transcribe.json", {"max_new_tokens": config.decoding.max_new_tokens})
    (out / FILE).write_text(Path(alone.__file__).read_text("utf-8"), "utf-8")


def live(model: Any, ears: "Ears", clips: "list[np.ndarray]", config: TranscriptionConfig) -> list[str]:
    """Transcripts one at a time, in the shapes that a stranger's own call has."""
    from recipes.transcription.decode import written

    alone_each = config.decoding.model_copy(update={"batch_size": 1})
    return [written(model, ears, [clip], alone_each)[0] for clip in clips]


def said_afresh(directory: Path, files: list[str]) -> list[str]:
    """What transcribe.py writes, in a process that has no module of ours. Raises RuntimeError where it fails."""
    from recipes.common.alone import run_alone

    return json.loads(run_alone(directory, FILE, *files))


def _about(config: TranscriptionConfig, measured: dict[str, int], said: str) -> "About":
    from pipeline.publish.model_card import fenced
    from recipes.common.audio.prepare import licence_of
    from recipes.common.card import About, checks

    use = f"python {FILE} CLIP ...     # of {RATE:,} samples a second; with transformers and soundfile alone"
    text = f"`{FILE}` in a fresh process wrote of `{EXAMPLES}/` what the live model writes."
    return About(
        kind="transcripts of speech",
        shown=f"[a clip]({EXAMPLES}/0.wav): {said}",
        use=fenced(use, "sh"),
        tags=TAGS,
        classes=(),
        licence=licence_of(config.data),
        checked=checks(text, measured),
    )


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("export")
