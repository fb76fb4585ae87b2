"""MOSES's figures of sets of molecules (Polykovskiy et al. 2020, doi:10.3389/fphar.2020.565644), by RDKit."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rdkit.Chem import Mol

RADIUS, BITS = 2, 1024  # of Morgan fingerprints
ATOMS = {"C", "N", "S", "O", "F", "Cl", "Br", "H"}
LARGEST_RING = 8


def fingerprints(molecules: Iterable[Mol]) -> list:
    """Morgan fingerprints."""
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    return [generator.GetFingerprint(molecule) for molecule in molecules]


def nearest(drawn: Sequence, others: Sequence) -> np.ndarray:
    """Tanimoto similarity of each fingerprint to the most similar of `others`, whose mean is MOSES's SNN."""
    from rdkit.DataStructs import BulkTanimotoSimilarity

    return np.array([max(BulkTanimotoSimilarity(each, others)) for each in drawn])


def internal_diversity(drawn: Sequence) -> float:
    """1 - the mean similarity of two of them, itself included."""
    from rdkit.DataStructs import BulkTanimotoSimilarity

    return 1 - float(np.mean([np.mean(BulkTanimotoSimilarity(each, drawn)) for each in drawn]))


def fragments(molecules: Iterable[Mol]) -> Counter[str]:
    """How often each BRICS fragment comes."""
    from rdkit import Chem
    from rdkit.Chem import BRICS

    found: Counter[str] = Counter()
    for molecule in molecules:
        found.update(Chem.MolToSmiles(BRICS.BreakBRICSBonds(molecule)).split("."))
    return found


def scaffolds(molecules: Iterable[Mol]) -> Counter[str]:
    """How often each Bemis-Murcko scaffold of two rings or more comes."""
    from recipes.molecules.reading import scaffold_of

    found = Counter(map(scaffold_of, molecules))
    return Counter({smiles: count for smiles, count in found.items() if smiles and _rings(smiles) > 1})


def _rings(smiles: str) -> int:
    from rdkit.Chem import MolFromSmiles, rdMolDescriptors

    return rdMolDescriptors.CalcNumRings(MolFromSmiles(smiles))


def cosine(one: Counter[str], other: Counter[str]) -> float:
    """Cosine similarity of two vectors of counts; 0 where one of them is empty."""
    both = sum(count * other[name] for name, count in one.items())
    norms = [np.sqrt(sum(count * count for count in each.values())) for each in (one, other)]
    return float(both / (norms[0] * norms[1])) if both else 0.0


def filters_of(directory: Path) -> list[Mol]:
    """MOSES's medicinal-chemistry filters and PAINS, read from its package."""
    from rdkit import Chem, rdBase

    found = []
    with open(directory / "metrics" / "mcf.csv", encoding="utf-8") as file:
        found += [row["smarts"] for row in csv.DictReader(file)]
    with open(directory / "metrics" / "wehi_pains.csv", encoding="utf-8") as file:
        found += [row[0].strip() for row in csv.reader(file)]
    with rdBase.BlockLogs():
        return [Chem.MolFromSmarts(smarts) for smarts in found]


def passes(molecule: Mol, filters: Sequence[Mol]) -> bool:
    """Whether MOSES would keep a molecule: no charge, no rare atom, no ring above 8, no filter that matches."""
    from rdkit import Chem

    if any(len(ring) > LARGEST_RING for ring in molecule.GetRingInfo().AtomRings()):
        return False
    atoms = list(molecule.GetAtoms())
    if any(atom.GetFormalCharge() for atom in atoms) or any(atom.GetSymbol() not in ATOMS for atom in atoms):
        return False
    whole = Chem.AddHs(molecule)
    return not any(whole.HasSubstructMatch(pattern) for pattern in filters)


def activations(smiles: list[str]) -> np.ndarray:
    """ChemNet's, fp32 [N, 512]."""
    import warnings

    import fcd
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fcd calls numpy by an old name
        return fcd.get_predictions(fcd.load_ref_model(), smiles, n_jobs=0, device=device)


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """The Frechet ChemNet distance of two sets of activations (Preuer et al. 2018, arXiv:1803.09518)."""
    import warnings

    import fcd

    (first, second) = ((each.mean(0), np.cov(each.T)) for each in (one.astype(float), other.astype(float)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # and scipy by old arguments
        return float(fcd.calculate_frechet_distance(first[0], first[1], second[0], second[1]))
