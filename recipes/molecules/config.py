"""Every setting of a molecule recipe, with its unit."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.run.config import Section, how, what
from recipes.common.symbols.config import SymbolConfig

Property = Literal["logp", "qed", "weight", "tpsa", "sa"]


class Molecules(Section):
    """Where molecules come from, how they are written down, and which of them are held out."""

    section: ClassVar[str] = "data"
    only_named: ClassVar[bool] = True

    source: Literal["moses", "smi", "auto", "jsonl", "json", "csv", "parquet", "datasets"] = what(
        "auto",
        "moses: the molecules and splits of MOSES, from its wheel; smi: a file of SMILES, one first on each line; else "
        "tables, auto: by the files' endings",
    )
    path: str | None = what(
        None, "file, folder, glob or dataset; moses: the package's folder, where it lies elsewhere"
    )
    split: str = what("train", "datasets only: the split to read")
    smiles_column: str = what("smiles", "tables: the column of SMILES")
    notation: Literal["smiles", "selfies"] = what("smiles", "how a molecule is written")
    randomised: int = what(
        0,
        "SMILES of other atom orders in which a training molecule is written beside its canonical one",
        ge=0,
    )
    properties: tuple[Property, ...] = what(
        (), "what may be asked for, in words of its own before a molecule: RDKit's figures"
    )
    bins: int = what(5, "words a property: equally many training molecules have each", ge=2, le=100)
    scaffold: bool = what(False, "a Bemis-Murcko scaffold may be asked for too")
    asked: float = what(0.5, "probability that a training molecule stands behind each of these", gt=0, lt=1)
    held_out: float = what(0.05, "tables: share of molecules held out, by a hash", gt=0, lt=1)
    held_out_scaffolds: float = what(
        0.05, "tables: share of scaffolds whose molecules are held out apart", gt=0, lt=1
    )
    max_molecules: int | None = what(None, "training molecules at most, by a hash; none: all", ge=2)
    max_held_out: int = what(5000, "molecules of each held-out set at most, by a hash", ge=2)
    on_bad_row: Literal["error", "skip"] = what(
        "error", "a molecule that cannot be used: stop, or count and list"
    )
    seed: int = what(0, "seed of atom orders and of what is asked for", ge=0)
    licence: str | None = what(None, "SPDX identifier of the molecules; known for moses")
    processes: int | None = how(None, "that read molecules; none: one a core", ge=1)

    @property
    def named_columns(self) -> dict[str, str]:
        return {"smiles_column": self.smiles_column}

    @model_validator(mode="after")
    def _orders_of_smiles(self) -> "Molecules":
        if self.notation == "selfies" and self.randomised:
            raise ValueError("randomised is for smiles: SELFIES are made of the canonical one")
        return self


class Evaluate(Section):
    """What is measured on drawn molecules and on held-out ones."""

    molecules: int = what(1000, "held-out molecules whose likelihood is computed, of each set", ge=2)
    drawn: int = what(2000, "molecules drawn and compared with held-out ones", ge=10)
    asked: int = what(
        40, "molecules drawn to each word of a property, and to as many scaffolds; 0: none", ge=0
    )
    fcd: bool = what(True, "the Frechet distance of ChemNet's activations")
    ngram_order: int = what(6, "tokens in a row that the n-gram model counts", ge=1, le=8)
    resamples: int = what(1000, "bootstrap resamples behind an interval", ge=20)
    seed: int = what(0, "seed of the first molecule that is drawn", ge=0)


class Sample(Section):
    """What people are shown."""

    samples: int = what(12, "molecules of each kind", ge=1)
    seed: int = what(1_000_000, "seed of the first", ge=0)


class MoleculeConfig(SymbolConfig):
    """A decoder on molecules, from SMILES to a scored and exported model."""

    recipe: Literal["molecules"] = what(..., "the model family")
    data: Molecules = Field(..., description="the molecules")
    evaluate: Evaluate = Field(default=Evaluate(), description="the scoring stage")
    sample: Sample = Field(default=Sample(), description="the molecules that are shown")
