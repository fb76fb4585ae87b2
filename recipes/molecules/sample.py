"""Stage `sample`: sheets of molecules drawn freely, to each property and around scaffolds, beside held-out ones."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.molecules.config import MoleculeConfig

if TYPE_CHECKING:
    from rdkit.Chem import Mol

COLUMNS, SIDE = 4, 200  # molecules a row; pixels


def check(config: MoleculeConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write a PNG of each kind, and molecules.json, which says what each shows.

    Molecule i of a kind has seed `sample.seed` + i; of a property, the first are asked for its lowest bin, the last for
    its highest.
    """
    from recipes.common.symbols.model import Decoder
    from recipes.molecules.evaluate import draw, smiles_in
    from recipes.molecules.reading import HELD_OUT, SCAFFOLDS, molecule_of, scaffold_of
    from recipes.molecules.words import MOLECULE, SCAFFOLD, asking, written

    config, settings, prepared = context.config, context.config.sample, context.inputs["prepare"]
    decoder = Decoder.load(context.inputs["train"] / "model")
    count = settings.samples
    prompts: dict[str, list[str]] = {"drawn": [""] * count}
    for name in config.data.properties:
        prompts[f"asked for {name}"] = [asking(name, i * config.data.bins // count) for i in range(count)]
    if config.data.scaffold:
        rings = [scaffold_of(molecule_of(smiles)) for smiles in smiles_in(prepared, SCAFFOLDS)]
        rings = list(dict.fromkeys(ring for ring in rings if ring))[:count]
        prompts["asked for a scaffold"] = [
            f"{SCAFFOLD}{written(ring, config.data)}{MOLECULE}" for ring in rings
        ]
    shown = {"held out": [(smiles, "") for smiles in smiles_in(prepared, HELD_OUT)[:count]]}
    for kind, asked in prompts.items():
        found = draw(decoder, asked, settings.seed, config)
        shown[kind] = list(zip(found.texts, asked, strict=True))
    for kind, rows in shown.items():
        save(rows, config, prepared, context.out / f"{kind.replace(' ', '_')}.png")
    write_json(
        context.out / "molecules.json",
        {kind: [{"smiles": text, "asked": asked} for text, asked in rows] for kind, rows in shown.items()},
    )
    return {"kinds": len(shown), "molecules": sum(map(len, shown.values()))}


def save(rows: list[tuple[str, str]], config: MoleculeConfig, prepared: Path, path: Path) -> None:
    """Draw (SMILES, what was asked for) with its figures below; what RDKit refuses is a star that says so."""
    from rdkit.Chem import Draw, MolFromSmiles

    from recipes.molecules.words import molecule_or_none

    molecules = [molecule_or_none(smiles) for smiles, _ in rows]
    below = [caption(molecule, asked, config) for molecule, (_, asked) in zip(molecules, rows, strict=True)]
    page = Draw.MolsToGridImage(
        [molecule or MolFromSmiles("*") for molecule in molecules],
        molsPerRow=COLUMNS,
        subImgSize=(SIDE, SIDE),
        legends=below,
        returnPNG=True,
    )
    path.write_bytes(page if isinstance(page, bytes) else page.data)


def caption(molecule: "Mol | None", asked: str, config: MoleculeConfig) -> str:
    """What was asked for, and the molecule's figures."""
    from recipes.molecules.reading import properties_of

    said = [f"asked {asked.strip('<>')}"] if asked and not asked.startswith("<scaffold>") else []
    if molecule is None:
        return "; ".join([*said, "not valid"])
    values = properties_of(molecule, config.data.properties)
    return "; ".join([*said, *(f"{name} {value:.2f}" for name, value in values.items())])


def edges(prepared: Path) -> dict[str, list[float]]:
    """Of each property, the values between its bins."""
    return json.loads((prepared / "properties.json").read_text())


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("sample")
