"""The family of conversations about pictures: a model of pictures and text that is taught a person's own."""

from functools import partial
from pathlib import Path

from pipeline.run.errors import UserError
from pipeline.run.outside import Files
from pipeline.run.stage import Stage
from recipes.common.stages import brought, of
from recipes.vision_chat.config import Pictured, VisionChatConfig

CONFIG = VisionChatConfig
HEADLINE = ("held-out nats a token", "answers right", "chrF")
USES = (
    "Look: {run}/sample/page.html",
    "Ask about a picture of your own: headwater describe {run} PICTURE --ask QUESTION",
)


def stages(config: VisionChatConfig) -> tuple[Stage, ...]:
    """prepare, tokenize, train, evaluate, sample, export, report."""
    own, base = "recipes.vision_chat", partial(brought, config.model.pretrained)
    used = ("prepare", "tokenize", "train")
    cut = of(config, "model") | {
        "max_length": config.train.max_length,
        "longest_side": config.data.longest_side,
    }
    found = (
        Stage("prepare", f"{own}.prepare", of(config, "data"), reads=partial(_files, config.data)),
        Stage("tokenize", f"{own}.tokenize", cut, ("prepare",), reads=base),
        Stage(
            "train", f"{own}.train", of(config, "model", "train"), ("prepare", "tokenize"), True, reads=base
        ),
        Stage("evaluate", f"{own}.evaluate", of(config, "model", "decoding", "evaluate"), used, reads=base),
        Stage("sample", f"{own}.sample", of(config, "decoding", "sample"), used),
        Stage("export", f"{own}.export", of(config, "decoding", "export"), (*used, "evaluate", "sample")),
    )
    return (*found, Stage("report", "pipeline.report", {}, tuple(stage.name for stage in found), view=True))


def _files(data: Pictured) -> Files:
    """The tables, and every file beside them that may be a picture of a row."""
    from pipeline.data import tables
    from pipeline.data.rows import files_of
    from pipeline.run.outside import files_below
    from recipes.common.images.readers import SUFFIXES

    if tables.is_dataset(data):  # type: ignore[arg-type]
        path = Path(data.path or "").expanduser()
        return files_below(path) if path.exists() else {}
    found = dict(files_of(data))  # type: ignore[arg-type]
    folders = {Path(data.images).expanduser()} if data.images else {file.parent for file in found.values()}
    for folder in folders:
        below = files_below(folder) if folder.is_dir() else {}
        found |= {name: file for name, file in below.items() if file.suffix.lower() in SUFFIXES}
    return found


def described(config: VisionChatConfig, pictures: list[Path], question: str | None) -> list[str]:
    """What `headwater describe --ask` says: an answer a picture."""
    if question is None:
        raise UserError("this model answers questions\nway out: --ask 'What is in the picture?'")
    from recipes.vision_chat.replies import replies_of

    return replies_of(config, pictures, question)
