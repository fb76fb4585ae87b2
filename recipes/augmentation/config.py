"""Every setting of an augmentation recipe: labelled rows, the generator that learns them, the curve."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.lm import config as lm
from pipeline.run.config import Run, Section, what
from recipes.common.symbols.config import Decoding, Train

KINDS = ("animal", "artifact", "body", "food", "location", "person", "plant", "substance")
Share = Annotated[float, Field(gt=0, le=1)]


class Rows(Section):
    """Labelled rows: where they come from, how they are read, which of them are held out."""

    section: ClassVar[str] = "data"
    only_named: ClassVar[bool] = True

    source: Literal["wordnet", "moses", "auto", "jsonl", "json", "csv", "parquet", "datasets"] = what(
        "auto",
        "wordnet: definitions of nouns and what kind of thing each is; moses: molecules and the third of a property; "
        "else tables, auto: by the files' endings",
    )
    path: str | None = what(
        None, "file, folder, glob or dataset; wordnet, moses: the package's folder, where it lies elsewhere"
    )
    split: str = what("train", "datasets only: the split to read")
    text_column: str = what("text", "tables: the column of texts, or of SMILES")
    label_column: str = what("label", "tables: the column of classes")
    kind: Literal["words", "molecules"] = what(
        "words",
        "words: classical augmentation leaves words out and swaps some (arXiv:1901.11196); molecules: it writes atoms "
        "in another order (arXiv:1703.07076)",
    )
    kinds: tuple[str, ...] = what(
        KINDS, "wordnet: the kinds of nouns, as its lexicographers' files are called"
    )
    figure: Literal["logp", "qed", "weight", "tpsa", "sa"] = what(
        "logp", "moses: RDKit's figure whose thirds are the classes"
    )
    held_out: float = what(0.1, "share of rows held out, by a hash of the text", gt=0, lt=1)
    max_rows: int | None = what(None, "training rows at most, by a hash; none: all", ge=10)
    max_held_out: int = what(2000, "held-out rows at most, by a hash", ge=10)
    on_bad_row: Literal["error", "skip"] = what("error", "a row that cannot be used: stop, or count and list")
    licence: str | None = what(None, "SPDX identifier of the rows; known for wordnet and moses")

    @property
    def named_columns(self) -> dict[str, str]:
        return {"text_column": self.text_column, "label_column": self.label_column}

    @model_validator(mode="after")
    def _of_the_source(self) -> "Rows":
        if self.source == "moses" and self.kind != "molecules":
            raise ValueError("source: moses holds molecules: kind must be molecules")
        if self.source == "wordnet" and self.kind != "words":
            raise ValueError("source: wordnet holds definitions: kind must be words")
        if self.source == "wordnet" and len(set(self.kinds)) < 2:
            raise ValueError("kinds: a classifier tells two kinds apart at least")
        return self


class Curve(Section):
    """Classifiers of few and of many rows, each with and without rows that were made."""

    shares: tuple[Share, ...] = what(
        (0.01, 0.05, 0.1, 1.0), "shares of the training rows; the rest is not looked at", min_length=1
    )
    seeds: int = what(5, "draws of the rows, each with a generator and classifiers of its own", ge=1)
    made: float = what(1.0, "rows made for each real one", gt=0)
    most_made: int = what(1000, "rows made at most", ge=1)
    ngram: int = what(
        2, "words, or atoms and bonds, in a row that the classifier counts, up to so many", ge=1
    )
    inverse_penalty: float = what(10.0, "C of the logistic regression: the larger, the closer it fits", gt=0)
    vocabulary_size: int = what(
        1000, "tokens of a generator from scratch at most, learnt from its own rows alone", ge=300
    )


class AugmentationConfig(Section):
    """Are rows that a model made worth having? From labelled rows to the answer, share by share."""

    recipe: Literal["augmentation"] = what(..., "the model family")
    run: Run = Field(..., description="how and where it runs")
    data: Rows = Field(..., description="the labelled rows")
    model: lm.Model = Field(..., description="the generator, from scratch or pretrained")
    train: Train = Field(..., description="the training of each generator")
    decoding: Decoding = Field(default=Decoding(max_new_tokens=64), description="how rows are drawn")
    curve: Curve = Field(default=Curve(), description="what is compared")

    @model_validator(mode="after")
    def _plainly(self) -> "AugmentationConfig":
        if self.model.adds_tokens:
            raise ValueError("model.add_tokens: a generator writes in the tokens that its tokenizer has")
        if self.train.teacher:
            raise ValueError("train.teacher: a generator learns from its own rows alone")
        return self

    @property
    def trainings(self) -> dict[str, Train]:
        """The one section that trains."""
        return {"train": self.train}
