"""Stage `prepare`: molecules of any source, canonical and each once, written in words, and a ledger of every row."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from pipeline.run.terminal import bar
from recipes.molecules import reading
from recipes.molecules.config import MoleculeConfig, Molecules
from recipes.molecules.reading import HELD_OUT, SCAFFOLDS, SPLITS, TRAIN, Line

BATCH = 512  # rows that a process looks at in one go


@dataclass(slots=True)
class Looked:
    """A row that RDKit has seen: canonical SMILES, scaffold, properties, other SMILES; or why it cannot be used."""

    smiles: str = ""
    scaffold: str = ""
    properties: dict[str, float] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    wrong: str = ""


def check(config: MoleculeConfig) -> None:
    """Raises UserError as reading.check."""
    reading.check(config.data)


def run(context: Context) -> dict[str, Any]:
    """Write SPLIT.jsonl, {"smiles", "text", "copy"} a line, copy 0 the molecule alone; held_out_scaffolds.jsonl
    likewise; properties.json, the edges of the bins; with scaffolds prompts.jsonl; and ledger.json.

    Raises:
        UserError: a molecule cannot be used and data.on_bad_row is error; a split is left without molecules.
    """
    from recipes.common.ledger import Record
    from recipes.common.rows import Row

    data, record = context.config.data, Record()
    if data.source == "moses" and reading.wheels.find(reading.MOSES, data.path) is None:
        context.terminal.write(f"prepare: downloading {reading.MOSES.name}, {reading.MOSES.megabytes} MB\n")
    chosen, rows_in = _chosen(data)
    counts = {"rows_in": rows_in, **dict.fromkeys(SPLITS, 0)}
    counts |= {"beyond_the_limits": rows_in - len(chosen), "repeated": 0, "skipped": 0}
    kept: dict[str, list[Looked]] = {split: [] for split in SPLITS}
    seen: set[str] = set()
    from pipeline.data.rows import BadRow

    for line, looked in bar(_looked_at(chosen, data), "molecules", context.terminal, len(chosen)):
        if looked.wrong:
            counts["skipped"] += 1
            record.skip_or_raise(
                Row(line.smiles, line.file, line.row, -1, False), BadRow(looked.wrong), data.on_bad_row
            )
        elif looked.smiles in seen:
            counts["repeated"] += 1
        else:
            seen.add(looked.smiles)
            split = line.split or _split_of(looked, data)
            counts[split] += 1
            kept[split].append(looked)
    for split in SPLITS:
        if not kept[split]:
            raise UserError(
                f"{split} is empty: {rows_in} rows in, {counts['skipped']} skipped\n"
                "expected: some to train on and some held out\n"
                "way out: more molecules, or another data.held_out and data.held_out_scaffolds"
            )
    spent = sum(counts.values()) - rows_in
    assert spent == rows_in, f"molecules appeared or vanished: {counts}"
    edges = _edges(kept[TRAIN], data)
    write_json(context.out / "properties.json", edges)
    copies = 0
    for split, found in kept.items():
        with open(context.out / f"{split}.jsonl", "w", encoding="utf-8") as file:
            for looked in found:
                for number, text in enumerate(_texts(looked, split, edges, data)):
                    line = {"smiles": looked.smiles if not number else "", "text": text, "copy": number}
                    file.write(json.dumps(line) + "\n")
                    copies += number > 0
    if data.scaffold:
        _write_prompts(context.out, kept[TRAIN], data)
    listed = {"skipped": record.skipped} if record.skipped else {}
    write_json(context.out / "ledger.json", {"molecules": [counts], **listed})
    return {**counts, "copies": copies, "licence": data.licence or reading.LICENCES.get(data.source)}


def _write_prompts(out: Path, train: list[Looked], data: Molecules) -> None:
    """Write prompts.jsonl, {"prompt", "scaffold"} a line: every training scaffold as it is asked for."""
    from recipes.molecules.words import MOLECULE, SCAFFOLD, written

    rings = dict.fromkeys(looked.scaffold for looked in train if looked.scaffold)
    with open(out / "prompts.jsonl", "w", encoding="utf-8") as file:
        for ring in rings:
            line = {"prompt": f"{SCAFFOLD}{written(ring, data)}{MOLECULE}", "scaffold": ring}
            file.write(json.dumps(line) + "\n")


def _chosen(data: Molecules) -> tuple[list[Line], int]:
    """The rows within the limits of each split, by a hash of their SMILES, in their order; and how many there are."""
    import hashlib

    found = list(reading.lines(data))
    limits = {
        TRAIN: data.max_molecules,
        HELD_OUT: data.max_held_out,
        SCAFFOLDS: data.max_held_out,
        None: None,
    }
    limits[None] = data.max_molecules
    kept: list[int] = []
    for split, most in limits.items():
        own = [number for number, line in enumerate(found) if line.split == split]
        if most is not None and len(own) > most:
            ranks = {n: hashlib.blake2b(found[n].smiles.encode(), digest_size=8).digest() for n in own}
            own = sorted(own, key=lambda number: (ranks[number], number))[:most]
        kept += own
    return [found[number] for number in sorted(kept)], len(found)


def _looked_at(lines: list[Line], data: Molecules) -> Iterator[tuple[Line, Looked]]:
    """Each row with what RDKit makes of it, in their order, by all cores."""
    processes = data.processes or len(os.sched_getaffinity(0))
    parts = [lines[first : first + BATCH] for first in range(0, len(lines), BATCH)]
    look = partial(look_at, data=data)
    if processes == 1 or len(parts) == 1:
        for part in parts:
            yield from zip(part, look(part), strict=True)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        # A few parts a process ahead: all results at once would be all molecules twice.
        waiting, coming = iter(parts), []
        for part in islice(waiting, 4 * processes):
            coming.append((part, pool.submit(look, part)))
        while coming:
            part, result = coming.pop(0)
            yield from zip(part, result.result(), strict=True)
            for after in islice(waiting, 1):
                coming.append((after, pool.submit(look, after)))


def look_at(lines: list[Line], data: Molecules) -> list[Looked]:
    """What RDKit makes of rows; properties and other SMILES of those that may be trained on."""
    from rdkit import Chem

    from pipeline.data.rows import BadRow
    from pipeline.train.seeds import derived_seed

    found = []
    for line in lines:
        try:
            if line.wrong:
                raise BadRow(line.wrong)
            molecule = reading.molecule_of(line.smiles)
            smiles = Chem.MolToSmiles(molecule)
            looked = Looked(smiles, reading.scaffold_of(molecule))
            if line.split in (TRAIN, None):
                looked.properties = reading.properties_of(molecule, data.properties)
                if data.randomised:
                    seed = derived_seed(data.seed, smiles) % 2**31
                    looked.others = list(
                        Chem.MolToRandomSmilesVect(molecule, data.randomised, randomSeed=seed)
                    )
            found.append(looked)
        except BadRow as bad:
            found.append(Looked(wrong=str(bad)))
    return found


def _split_of(looked: Looked, data: Molecules) -> str:
    """By hashes: some scaffolds are held out whole, of the other molecules a share."""
    from pipeline.data.sources import is_held_out

    if looked.scaffold and is_held_out(f"scaffold {looked.scaffold}", data.held_out_scaffolds):
        return SCAFFOLDS
    return HELD_OUT if is_held_out(looked.smiles, data.held_out) else TRAIN


def _edges(train: list[Looked], data: Molecules) -> dict[str, list[float]]:
    from recipes.molecules.words import edges_of

    values = {name: [looked.properties[name] for looked in train] for name in data.properties}
    return edges_of(values, data.bins)


def _texts(looked: Looked, split: str, edges: dict[str, list[float]], data: Molecules) -> list[str]:
    """The molecule as documents: held out, alone; for training, behind what is asked for, a function of the seed."""
    import numpy as np

    from pipeline.train.seeds import derived_seed
    from recipes.molecules.words import document, written

    if split != TRAIN:
        return [written(looked.smiles, data)]
    random = np.random.default_rng(derived_seed(data.seed, "asked", looked.smiles))
    found = []
    for body in (looked.smiles, *looked.others):
        wanted = {name: value for name, value in looked.properties.items() if random.random() < data.asked}
        scaffold = looked.scaffold if data.scaffold and random.random() < data.asked else ""
        scaffold = written(scaffold, data) if scaffold else ""
        found.append(document(written(body, data), wanted, edges, scaffold))
    return found


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("prepare")
