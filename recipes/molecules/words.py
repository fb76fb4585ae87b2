"""Molecules as words: what is asked for, then atoms and bonds; a text is a molecule."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from recipes.molecules.config import MoleculeConfig, Molecules

if TYPE_CHECKING:
    from rdkit.Chem import Mol

PATTERN = r"<[^<>]+>|\[[^\[\]]+\]|Br|Cl|%\d\d|."
SCAFFOLD, MOLECULE = "<scaffold>", "<molecule>"
ALPHABET = 64  # words of atoms and bonds, at most, before they have been counted


def written(smiles: str, data: Molecules) -> str:
    """A SMILES in the recipe's notation."""
    if data.notation == "smiles":
        return smiles
    import selfies

    return selfies.encoder(smiles)


def smiles_of(text: str, data: Molecules) -> str:
    """What a drawn text says behind all that it asks for itself; empty where that is nothing."""
    body = re.sub(r"<[^<>]*>", "", text.rpartition(MOLECULE)[2])
    if data.notation == "smiles":
        return body
    import selfies

    try:
        return selfies.decoder(body)
    except selfies.DecoderError:
        return ""


def molecule_or_none(smiles: str) -> Mol | None:
    """RDKit's molecule, where it takes the SMILES and it is one molecule."""
    from pipeline.data.rows import BadRow
    from recipes.molecules.reading import molecule_of

    try:
        return molecule_of(smiles)
    except BadRow:
        return None


def edges_of(values: Mapping[str, Sequence[float]], bins: int) -> dict[str, list[float]]:
    """Of each property, the bins - 1 values between which equally many molecules lie."""
    places = np.arange(1, bins) / bins
    return {name: np.quantile(found, places).tolist() for name, found in values.items()}


def bin_of(value: float, edges: Sequence[float]) -> int:
    """The bin of a value, from 0."""
    return int(np.searchsorted(edges, value, side="right"))


def asking(name: str, number: int) -> str:
    """The word for bin `number` of a property."""
    return f"<{name}:{number}>"


def document(
    body: str, properties: Mapping[str, float], edges: Mapping[str, Sequence[float]], scaffold: str | None
) -> str:
    """A molecule behind what is asked for. scaffold: in the recipe's notation; None or empty: not asked for."""
    words = "".join(asking(name, bin_of(value, edges[name])) for name, value in properties.items())
    if scaffold:
        words += f"{SCAFFOLD}{scaffold}{MOLECULE}"
    return words + body


def words(config: MoleculeConfig, texts: Iterable[str]) -> list[str]:
    """The vocabulary: what may be asked for, and the atoms and bonds of the training molecules."""
    pattern, seen = re.compile(PATTERN), set()
    for text in texts:
        seen.update(pattern.findall(text))
    asked = [asking(name, number) for name in config.data.properties for number in range(config.data.bins)]
    return [*asked, SCAFFOLD, MOLECULE, *sorted(seen - {*asked, SCAFFOLD, MOLECULE})]


def foretold(config: MoleculeConfig) -> int:
    """Entries of the vocabulary, about."""
    return ALPHABET + len(config.data.properties) * config.data.bins
