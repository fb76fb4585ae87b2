"""The encoder-decoder family: texts from texts, such as translations and summaries."""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from pipeline.run.errors import UserError
from pipeline.run.outside import Files, files_below
from pipeline.run.stage import Stage
from recipes.common.stages import of
from recipes.common.start import of_pairs
from recipes.seq2seq.config import Seq2SeqConfig
from recipes.seq2seq.pairs import files_of

CONFIG = Seq2SeqConfig
first_recipe = partial(of_pairs, "seq2seq/translation")
HEADLINE = ("BLEU", "chrF", "repeated targets")
USES = ("Translate by it: headwater translate {run} FILE",)


def stages(config: Seq2SeqConfig) -> tuple[Stage, ...]:
    """prepare, tokenize, pretrain where the recipe asks for it, train, evaluate, sample, export, report."""
    own = "recipes.seq2seq"
    base = partial(_weights, config.model.pretrained)
    first = (
        Stage("prepare", f"{own}.prepare", of(config, "data"), reads=partial(files_of, config.data)),
        Stage(
            "tokenize", f"{own}.tokenize", of(config, "tokenizer") | _named(config), ("prepare",), reads=base
        ),
    )
    before = ("pretrain",) if config.pretrain else ()
    learnt = of(config, "model", "pretrain")
    begun = [Stage("pretrain", f"{own}.pretrain", learnt, ("tokenize",), True)] if before else []
    used = ("prepare", "tokenize", "train")
    later = (
        Stage("train", f"{own}.train", of(config, "model", "train"), ("tokenize", *before), True, reads=base),
        Stage("evaluate", f"{own}.evaluate", of(config, "decoding", "evaluate"), used),
        Stage("sample", f"{own}.sample", of(config, "decoding", "sample"), used),
        Stage("export", f"{own}.export", of(config, "decoding", "export"), (*used, "evaluate", "sample")),
    )
    found = (*first, *begun, *later)
    return (*found, Stage("report", "pipeline.report", {}, tuple(stage.name for stage in found), view=True))


def translations(config: Seq2SeqConfig, lines: Iterable[str]) -> Iterator[str]:
    """What `headwater translate` prints: a target for each line, by the run's export."""
    directory = Path(config.run.output_dir) / "export"
    if not directory.is_dir():
        raise UserError(f"{directory} is not there yet\nway out: headwater run, to its end")
    from recipes.seq2seq.translate import translations as by

    return by(directory, lines)


def _named(config: Seq2SeqConfig) -> dict[str, str]:
    """Whose tokenizer it is, where it is not trained."""
    return {"pretrained": config.model.pretrained} if config.model.pretrained else {}


def _weights(pretrained: str | None) -> Files:
    """The files of a pretrained model that is a directory here."""
    return files_below(Path(pretrained)) if pretrained and Path(pretrained).is_dir() else {}
