"""The transcription family: words from speech, by Whisper's encoder-decoder."""

from functools import partial
from pathlib import Path

from pipeline.run.stage import Stage
from recipes.common.audio.readers import files_of
from recipes.common.stages import brought, of
from recipes.common.start import of_transcribed_sounds
from recipes.transcription.config import TranscriptionConfig

CONFIG = TranscriptionConfig
first_recipe = partial(of_transcribed_sounds, "transcription/tuxpaint")
HEADLINE = ("word error rate", "character error rate", "transcripts right")
USES = ("Transcribe clips of your own: headwater transcribe {run} CLIP ...",)


def stages(config: TranscriptionConfig) -> tuple[Stage, ...]:
    """prepare, processor, train, evaluate, sample, export, report."""
    own, base = "recipes.transcription", partial(brought, config.model.pretrained)
    used = ("prepare", "processor", "train")
    heard = of(config, "model") | {"max_length": config.train.max_length, "longest": config.longest}
    found = (
        Stage(
            "prepare",
            "recipes.common.audio.prepare",
            of(config, "data"),
            reads=partial(files_of, config.data),
        ),
        Stage("processor", f"{own}.processor", heard, ("prepare",), reads=base),
        Stage(
            "train", f"{own}.train", of(config, "model", "train"), ("prepare", "processor"), True, reads=base
        ),
        Stage("evaluate", f"{own}.evaluate", of(config, "decoding", "evaluate"), used),
        Stage("sample", f"{own}.sample", of(config, "decoding", "sample"), used),
        Stage("export", f"{own}.export", of(config, "decoding", "export"), (*used, "evaluate", "sample")),
    )
    return (*found, Stage("report", "pipeline.report", {}, tuple(stage.name for stage in found), view=True))


def transcribed(config: TranscriptionConfig, clips: list[Path]) -> list[str]:
    """What `headwater transcribe` says: a transcript a clip."""
    from recipes.transcription.decode import transcripts_of

    return transcripts_of(config, clips)
