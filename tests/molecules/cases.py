"""Small molecules for the tests: rings with chains, each once."""

import csv
from pathlib import Path

RINGS = (
    "c1ccccc1",
    "c1ccncc1",
    "C1CCCCC1",
    "c1ccc2ccccc2c1",
    "C1CCNCC1",
    "c1ccoc1",
    "c1ccsc1",
    "C1CC1",
    "c1ccc2[nH]ccc2c1",
)
CHAINS = ("C", "CC", "CO", "CN", "CC(C)", "ClC", "CC(=O)", "FC", "BrC", "N#CC")
SMILES = [chain + ring for ring in RINGS for chain in CHAINS]


def write_csv(path: Path, smiles: list[str]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([["smiles", "name"], *([each, "x"] for each in smiles)])
    return path
