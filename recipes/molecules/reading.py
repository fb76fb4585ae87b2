"""SMILES of any source, split, and what RDKit makes of each."""

import csv
import gzip
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data import sources, tables
from pipeline.data.rows import BadRow, path_of
from pipeline.run.errors import UserError
from pipeline.run.outside import Files, files_below
from recipes.common import wheels
from recipes.molecules.config import Molecules

if TYPE_CHECKING:
    from rdkit.Chem import Mol

SPLITS = TRAIN, HELD_OUT, SCAFFOLDS = ("train", "held_out", "held_out_scaffolds")
LICENCES = {"moses": "MIT"}
MOSES = wheels.Wheel(
    title="MOSES",
    name="molsets",
    version="0.3.1",
    module="moses",
    sha256="7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34",
    megabytes=52,
    holds=(
        "dataset/data/train.csv.gz",
        "dataset/data/test.csv.gz",
        "dataset/data/test_scaffolds.csv.gz",
        "metrics/mcf.csv",
        "metrics/wehi_pains.csv",
    ),
)
FILES = dict(zip(SPLITS, MOSES.holds[:3], strict=True))
LIBRARIES = {"rdkit": "rdkit", "selfies": "selfies", "fcd": "fcd"}


@dataclass(frozen=True, slots=True)
class Line:
    """A SMILES that nobody has looked at.

    split: of a source that brings its own; None: decided by hashes. wrong: why there is no SMILES.
    """

    file: str
    row: int | None
    smiles: str
    split: str | None
    wrong: str = ""


def check(data: Molecules) -> None:
    """Raises UserError where a library, a path or a column is missing, or a first molecule cannot be used."""
    for name in LIBRARIES:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"molecules need {name}\nway out: pip install 'headwater[molecules]'")
    if data.source == "moses":
        wheels.find(MOSES, data.path)
        return
    if tables.is_dataset(data):
        tables.check_dataset(data)
        return
    if data.source == "smi" and not path_of(data).is_file():
        raise UserError(f"data.path: {data.path} is no file\nexpected: a file of SMILES for source smi")
    path_of(data)
    for number, line in enumerate(lines(data)):
        if number == 20:
            break
        try:
            if line.wrong:
                raise BadRow(line.wrong)
            molecule_of(line.smiles)
        except BadRow as bad:
            if data.on_bad_row == "error":
                raise UserError(f"{line.file} row {line.row}: {bad}\n{WAY_OUT}") from None


WAY_OUT = "way out: mend it, or data.on_bad_row=skip to leave such out and count them"


def files_of(data: Molecules) -> Files:
    """The user's own files; MOSES is pinned by its wheel."""
    from pipeline.data.rows import files_of as files

    if data.source == "moses" or tables.is_dataset(data):
        path = Path(data.path or "").expanduser()
        return files_below(path) if data.path and path.exists() else {}
    return {Path(data.path or "").name: path_of(data)} if data.source == "smi" else dict(files(data))


def lines(data: Molecules) -> Iterator[Line]:
    """Every SMILES, in the source's order.

    Raises:
        UserError: the source cannot be read.
    """
    if data.source == "moses":
        yield from _moses(data)
    elif data.source == "smi":
        path = path_of(data)
        with open(path, encoding="utf-8", errors="replace") as file:
            for number, text in enumerate(file, 1):
                yield Line(str(path), number, (text.split() or [""])[0], None)
    else:
        for row in tables.table_rows(data):
            try:
                value = sources.columns_of(data, row)[data.smiles_column]
            except BadRow as bad:
                yield Line(row.file, row.line, "", None, str(bad))
                continue
            yield Line(row.file, row.line, value if isinstance(value, str) else "", None)


def _moses(data: Molecules) -> Iterator[Line]:
    folder = wheels.find(MOSES, data.path) or wheels.download(MOSES)
    for split, name in FILES.items():
        with gzip.open(folder / name, "rt", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file)):
                yield Line(name, number, row["SMILES"], split)


def molecule_of(smiles: str) -> "Mol":
    """RDKit's molecule.

    Raises:
        BadRow: it is empty, refused, or several molecules.
    """
    from rdkit import Chem, rdBase

    if not smiles.strip():
        raise BadRow("no SMILES\nexpected: one molecule, such as CCO")
    with rdBase.BlockLogs():
        found = Chem.MolFromSmiles(smiles.strip())
    if found is None or not found.GetNumAtoms():
        raise BadRow(f"RDKit refuses the SMILES {smiles[:60]!r}\nexpected: one molecule, such as CCO")
    if "." in smiles:
        raise BadRow(f"{smiles[:60]!r} is several molecules, such as a salt\nexpected: one")
    return found


def scaffold_of(molecule: "Mol") -> str:
    """The Bemis-Murcko scaffold's canonical SMILES; empty without a ring."""
    from rdkit.Chem.Scaffolds import MurckoScaffold

    return MurckoScaffold.MurckoScaffoldSmiles(mol=molecule)


def properties_of(molecule: "Mol", names: tuple[str, ...]) -> dict[str, float]:
    """RDKit's figures: logp (Crippen), qed, weight (g/mol), tpsa (square angstrom), sa (1 easy to 10 hard to make)."""
    from rdkit.Chem import QED, Crippen, Descriptors, rdMolDescriptors

    def accessibility(of: Any) -> float:
        from rdkit.Contrib.SA_Score import sascorer

        return sascorer.calculateScore(of)

    found = {
        "logp": Crippen.MolLogP,
        "qed": QED.qed,
        "weight": Descriptors.MolWt,
        "tpsa": rdMolDescriptors.CalcTPSA,
        "sa": accessibility,
    }
    return {name: float(found[name](molecule)) for name in names}
