"""Every setting of an encoder-decoder recipe, with its unit."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.lm.config import Lora
from pipeline.run.config import Run, Section, Training, what


class Pairs(Section):
    """Where pairs of texts come from, and which of them are held out."""

    section: ClassVar[str] = "data"
    only_named: ClassVar[bool] = True

    source: Literal["trans_de_en", "sword_en_es", "auto", "jsonl", "json", "csv", "parquet", "datasets"] = (
        what(
            "auto",
            "trans_de_en: German and English of Debian's trans-de-en; sword_en_es: verses of two of its Bibles; else "
            "tables, auto: by the files' endings, also .gz, .bz2, .xz and .zst, or a dataset",
        )
    )
    path: str | None = what(
        None, "file, folder, glob or dataset; named sources: where the package lies elsewhere"
    )
    split: str = what("train", "datasets only: the split to read")
    source_column: str = what("source", "tables: the column that is given")
    target_column: str = what("target", "tables: the column that is to be written")
    swap: bool = what(False, "the other way round: named sources from English")
    words: bool = what(False, "trans_de_en: words and phrases too, for training alone")
    sentence_repeats: int = what(
        1, "words: how many times each whole sentence is among the training pairs", ge=1
    )
    equal_sides: Literal["error", "drop", "keep"] = what("error", "a pair of two equal sides")
    held_out: float = what(0.02, "share of pairs held out, by a hash of the source side", gt=0, lt=1)
    max_pairs: int | None = what(None, "stop after this many pairs; none: all", ge=1)
    on_bad_row: Literal["error", "skip"] = what(
        "error", "a pair that cannot be used: stop, or count and list"
    )
    licence: str | None = what(None, "SPDX identifier of the pairs; known for the sources with a name")

    @property
    def named_columns(self) -> dict[str, str]:
        return {"source_column": self.source_column, "target_column": self.target_column}


class Tokenizer(Section):
    """SentencePiece models, trained on the training pairs."""

    algorithm: Literal["unigram", "bpe"] = what("unigram", "how pieces are found; both fall back to bytes")
    vocabulary_size: int = what(..., "pieces, with control tokens and 256 bytes", ge=300)
    joint: bool = what(True, "one model for both sides; false: one each, which marian alone takes")
    sentinels: int = what(0, "tokens <extra_id_0> and on, which stand for gaps; pretrain needs some", ge=0)


class Model(Section):
    """The encoder-decoder, from scratch or pretrained."""

    architecture: str | None = what(
        None, "from scratch: transformers' model type, such as t5, marian or bart"
    )
    config: dict[str, Any] = what({}, "from scratch: fields of its config; the vocabulary is the tokenizer's")
    pretrained: str | None = what(None, "directory or Hub name of a model with its tokenizer")

    @model_validator(mode="after")
    def _one(self) -> "Model":
        if (self.architecture is None) == (self.pretrained is None):
            raise ValueError("either architecture (from scratch) or pretrained")
        if self.pretrained and self.config:
            raise ValueError("config is for a model from scratch: a pretrained one brings its own")
        return self


class Grouped(Training):
    """How groups of pairs are made and trained on. A sample of the loop is a group."""

    group_tokens: int = what(
        ..., "tokens of a group's longer side with padding: few long or many short pairs", ge=16
    )
    max_length: int = what(128, "tokens of a side", ge=4)
    packing: bool = what(
        False,
        "several pairs a row of max_length tokens, each seeing itself alone; a group has group_tokens // max_length "
        "rows, and every batch one shape",
    )
    label_smoothing: float = what(0.0, "share of each target that is spread over all tokens", ge=0, lt=1)


class Pretrain(Grouped):
    """Span corruption (arXiv:1910.10683, section 3.1.4) on both sides of the training pairs, before the pairs."""

    noise_density: float = what(0.15, "share of tokens that are taken out", gt=0, lt=1)
    mean_span: float = what(3.0, "tokens of a gap", ge=1)


class Train(Grouped):
    """Training on pairs, of all weights or of adapters."""

    on_long: Literal["error", "drop"] = what("error", "a pair with a side of more than max_length tokens")
    lora: Lora | None = what(None, "adapters; none: every weight is trained")


class Decoding(Section):
    """How a target is written, batched with caches: transformers' own generate."""

    num_beams: int = what(4, "hypotheses kept; 1: greedy", ge=1)
    length_penalty: float = what(1.0, "exponent of the length by which a hypothesis' score is divided")
    no_repeat_ngram_size: int = what(0, "tokens in a row that may not come twice; 0: any may", ge=0)
    temperature: float | None = what(
        None,
        "draw from the softened distribution instead, which an export does not; none: the likeliest",
        gt=0,
    )
    max_new_tokens: int = what(128, "tokens of a target at most", ge=1)
    seed: int = what(0, "temperature: seed of the first target", ge=0)

    @model_validator(mode="after")
    def _one_way(self) -> "Decoding":
        if self.temperature is not None and self.num_beams > 1:
            raise ValueError("temperature draws one target: num_beams=1")
        return self


class Evaluate(Section):
    """What is measured on held-out pairs."""

    pairs: int | None = what(500, "held-out pairs translated; none: all", ge=2)
    resamples: int = what(1000, "bootstrap resamples behind an interval", ge=20)


class Sample(Section):
    """The held-out pairs that people are shown."""

    samples: int = what(24, "pairs", ge=1)


class Export(Section):
    """What is published."""

    licence: str = what(..., "SPDX identifier of the weights")
    pairs: int = what(16, "sources by which the export is compared with the live model", ge=1)


class Seq2SeqConfig(Section):
    """An encoder-decoder on pairs of texts, from settings to a scored and exported model."""

    recipe: Literal["seq2seq"] = what(..., "the model family")
    run: Run = Field(..., description="how and where it runs")
    data: Pairs = Field(..., description="the pairs")
    tokenizer: Tokenizer | None = Field(None, description="the tokenizer; none: the pretrained model's")
    model: Model = Field(..., description="the net")
    pretrain: Pretrain | None = Field(None, description="span corruption first; none: it is not there")
    train: Train = Field(..., description="the training stage")
    decoding: Decoding = Field(default=Decoding(), description="how targets are written")
    evaluate: Evaluate = Field(default=Evaluate(), description="the scoring stage")
    sample: Sample = Field(default=Sample(), description="the pairs that are shown")
    export: Export = Field(..., description="the published model")

    @model_validator(mode="after")
    def _fits(self) -> "Seq2SeqConfig":
        if (self.tokenizer is None) == (self.model.pretrained is None):
            raise ValueError(
                "a model from scratch needs the section tokenizer, a pretrained one brings its own"
            )
        if self.tokenizer and not self.tokenizer.joint and self.model.architecture != "marian":
            raise ValueError(
                "tokenizer.joint: false needs model.architecture: marian, which has two vocabularies"
            )
        if self.pretrain and self.model.pretrained:
            raise ValueError("pretrain is for a model from scratch")
        if self.pretrain and not (self.tokenizer and self.tokenizer.joint and self.tokenizer.sentinels):
            raise ValueError("pretrain needs one tokenizer with sentinels: tokenizer.sentinels=100")
        if self.pretrain and self.tokenizer:
            most = round(self.pretrain.max_length * self.pretrain.noise_density / self.pretrain.mean_span) + 1
            if most > self.tokenizer.sentinels:
                raise ValueError(
                    f"a text of pretrain.max_length has up to {most} gaps: tokenizer.sentinels={most}"
                )
        if self.train.lora and not self.model.pretrained:
            raise ValueError("train.lora is for a pretrained model: from scratch, every weight is trained")
        for name in ("pretrain", "train"):
            section = getattr(self, name)
            if section and section.torch_compile and not section.packing:
                raise ValueError(
                    f"{name}.torch_compile: groups differ in length, each would be compiled anew; "
                    f"way out: {name}.packing=true"
                )
        return self
