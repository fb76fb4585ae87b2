"""The WaveNet family: sound sample by sample, of a class or as mel frames say; an exact likelihood."""

from functools import partial

from pipeline.run.stage import Stage
from recipes.common.audio.readers import files_of
from recipes.common.stages import of
from recipes.common.start import of_sounds
from recipes.wavenet.config import WaveNetConfig

CONFIG = WaveNetConfig
first_recipe = partial(of_sounds, "wavenet/drums")
HEADLINE = ("bits per sample", "STFT distance")


def stages(config: WaveNetConfig) -> tuple[Stage, ...]:
    """prepare, train, evaluate, sample, export, report."""
    read = partial(files_of, config.data)
    learnt = ("prepare", "train")
    found = (
        Stage("prepare", "recipes.common.audio.prepare", of(config, "data"), reads=read),
        Stage("train", "recipes.wavenet.train", of(config, "model", "train"), ("prepare",), True),
        Stage("evaluate", "recipes.wavenet.evaluate", of(config, "evaluate"), learnt),
        Stage("sample", "recipes.wavenet.sample", of(config, "sample"), learnt),
        Stage("export", "recipes.wavenet.export", of(config, "export"), (*learnt, "evaluate", "sample")),
    )
    return (*found, Stage("report", "pipeline.report", {}, tuple(stage.name for stage in found), view=True))
