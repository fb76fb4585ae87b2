"""Stage `evaluate`: MOSES's figures of drawn molecules, nats an atom of held-out ones, what was asked for and got."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from recipes.molecules.config import MoleculeConfig
from recipes.molecules.reading import HELD_OUT, SCAFFOLDS, TRAIN

if TYPE_CHECKING:
    from rdkit.Chem import Mol

    from recipes.common.symbols.model import Decoder

GOT = "asked for and got"
TITLES = {HELD_OUT: "", SCAFFOLDS: ", scaffold test"}
# MOSES's README: CharRNN trained on its 1,584,663 molecules, 30,000 drawn; mean of three runs.
PUBLISHED = {
    "valid": 0.9748,
    "unique at 1k": 1.0,
    "unique at 10k": 0.9994,
    "novel": 0.8419,
    "internal diversity": 0.8562,
    "pass MOSES's filters": 0.9943,
    "FCD": 0.0732,
    "FCD, scaffold test": 0.5204,
    "nearest held-out molecule": 0.6015,
    "nearest held-out molecule, scaffold test": 0.5649,
    "fragment similarity": 0.9998,
    "fragment similarity, scaffold test": 0.9983,
    "scaffold similarity": 0.9242,
    "scaffold similarity, scaffold test": 0.1101,
}


@dataclass(frozen=True)
class Drawn:
    """texts: SMILES as drawn; molecules: RDKit's, of the valid ones; smiles: their canonical SMILES."""

    texts: list[str]
    molecules: list["Mol"]
    smiles: list[str]


def check(config: MoleculeConfig) -> None:
    """Nothing here can be refused beyond the schema."""


def run(context: Context) -> dict[str, Any]:
    """Write evaluation.json, drawn.smi, and the metrics are its scores by name."""
    from recipes.common.symbols.model import Decoder

    config, settings = context.config, context.config.evaluate
    decoder = Decoder.load(context.inputs["train"] / "model")
    context.terminal.write(f"evaluate: drawing {settings.drawn:,} molecules\n")
    drawn = draw(decoder, [""] * settings.drawn, settings.seed, config)
    (context.out / "drawn.smi").write_text("".join(f"{text}\n" for text in drawn.texts))
    scores = _likelihood(decoder, context) + _drawn_alone(drawn, context) + _beside(drawn, context)
    if settings.asked:
        scores += _asked(decoder, drawn, context)
    if config.data.source == "moses":
        scores += _published(scores)
    write_json(context.out / "evaluation.json", {"scores": [score.as_json() for score in scores]})
    return {score.key: score.value for score in scores}


def draw(decoder: "Decoder", prompts: list[str], seed: int, config: MoleculeConfig) -> Drawn:
    """A molecule to each prompt, the first with `seed`."""
    from rdkit import Chem

    from recipes.molecules.words import molecule_or_none, smiles_of

    seeds = range(seed, seed + len(prompts))
    texts = [
        smiles_of(written.text, config.data) for written in decoder.draw(prompts, seeds, config.decoding)
    ]
    molecules = [found for text in texts if (found := molecule_or_none(text)) is not None]
    return Drawn(texts, molecules, [Chem.MolToSmiles(found) for found in molecules])


def smiles_in(prepared: Path, split: str) -> list[str]:
    """Canonical SMILES of a split, each once."""
    from recipes.common.symbols.tokenize import records

    return [record["smiles"] for record in records(prepared, split) if record["copy"] == 0]


def _likelihood(decoder: "Decoder", context: Context) -> list[Score]:
    """Of held-out molecules as they are, without anything asked for."""
    from recipes.common.symbols.likelihood import likelihood

    return likelihood(
        decoder, context, context.config.evaluate.molecules, "atom", lambda line: _atoms(line["smiles"])
    )


def _atoms(smiles: str) -> int:
    from rdkit.Chem import MolFromSmiles

    return MolFromSmiles(smiles).GetNumAtoms()


def _share(name: str, model: str, hits: int, count: int, protocol: str) -> Score:
    from pipeline.scores.intervals import wilson_interval

    interval = wilson_interval(hits, count) if count else None
    value = hits / count if count else math.nan
    return Score(name, model, value, interval, "share", count, f"{protocol}; Wilson's 95% interval", "higher")


def _drawn_alone(drawn: Drawn, context: Context) -> list[Score]:
    """Validity, uniqueness, novelty, diversity, filters."""
    from recipes.common import wheels
    from recipes.molecules import chemistry
    from recipes.molecules.reading import MOSES

    known = set(smiles_in(context.inputs["prepare"], TRAIN))
    valid, unique = len(drawn.smiles), sorted(set(drawn.smiles))
    scores = [_share("valid", "model", valid, len(drawn.texts), "RDKit takes it, one molecule")]
    for name, most in (("unique at 1k", 1000), ("unique at 10k", 10_000)):
        if len(drawn.texts) >= most:
            first = drawn.smiles[:most]
            said = f"different ones of the first {len(first):,} valid"
            scores.append(_share(name, "model", len(set(first)), len(first), said))
    new = sum(smiles not in known for smiles in unique)
    said = f"of the different valid ones, not among the {len(known):,} training molecules"
    scores.append(_share("novel", "model", new, len(unique), said))
    if valid > 1:
        prints = chemistry.fingerprints(drawn.molecules)
        spread = chemistry.internal_diversity(prints)
        said = "1 - mean Tanimoto similarity of Morgan fingerprints (radius 2, 1,024 bits)"
        scores.append(Score("internal diversity", "model", spread, None, "", valid, said, "higher"))
    folder = wheels.find(MOSES, context.config.data.path if context.config.data.source == "moses" else None)
    if folder:
        filters = chemistry.filters_of(folder)
        passing = sum(chemistry.passes(molecule, filters) for molecule in drawn.molecules)
        scores.append(_share("pass MOSES's filters", "model", passing, valid, "of the valid ones"))
    return scores


def _beside(drawn: Drawn, context: Context) -> list[Score]:
    """Drawn molecules, and as a floor as many training molecules, beside those of both held-out sets."""
    import numpy as np
    from rdkit import Chem

    from pipeline.scores.intervals import bootstrap_interval
    from recipes.molecules import chemistry

    settings, prepared = context.config.evaluate, context.inputs["prepare"]
    train = smiles_in(prepared, TRAIN)
    floor = train[:: max(1, len(train) // max(1, len(drawn.smiles)))][: len(drawn.smiles)]
    sets = {"model": drawn.smiles, "training molecules": floor}
    if len(drawn.smiles) < 2:
        return []
    molecules = {name: [Chem.MolFromSmiles(smiles) for smiles in found] for name, found in sets.items()}
    prints = {name: chemistry.fingerprints(found) for name, found in molecules.items()}
    parts = {name: chemistry.fragments(found) for name, found in molecules.items()}
    rings = {name: chemistry.scaffolds(found) for name, found in molecules.items()}
    nets = {name: chemistry.activations(found) for name, found in sets.items()} if settings.fcd else {}
    scores = []
    for split, title in TITLES.items():
        context.terminal.write(f"evaluate: beside {split}\n")
        held = smiles_in(prepared, split)
        others = [Chem.MolFromSmiles(smiles) for smiles in held]
        other_prints, other_parts = chemistry.fingerprints(others), chemistry.fragments(others)
        other_rings = chemistry.scaffolds(others)
        other_nets = chemistry.activations(held) if settings.fcd else None
        for name, found in sets.items():
            count = len(found)
            against = f"{count:,} molecules against {len(held):,}"
            near = chemistry.nearest(prints[name], other_prints)
            interval = bootstrap_interval(near, np.ones(count), settings.resamples, settings.seed)
            alike = (
                (
                    chemistry.cosine(parts[name], other_parts),
                    "fragment",
                    "cosine of the counts of BRICS fragments",
                ),
                (chemistry.cosine(rings[name], other_rings), "scaffold", "cosine of the counts of scaffolds"),
            )
            said = f"mean Tanimoto similarity; {against}; 95% bootstrap interval over the first"
            title_of = f"nearest held-out molecule{title}"
            scores.append(Score(title_of, name, float(near.mean()), interval, "", count, said, "higher"))
            scores += [
                Score(
                    f"{kind} similarity{title}", name, value, None, "", count, f"{said}; {against}", "higher"
                )
                for value, kind, said in alike
            ]
            if other_nets is not None:
                value = chemistry.frechet(nets[name], other_nets)
                said = f"Frechet distance of ChemNet's activations, higher where n is small; {against}"
                scores.append(Score("FCD" + title, name, value, None, "", count, said, "lower"))
    return scores


def _asked(decoder: "Decoder", drawn: Drawn, context: Context) -> list[Score]:
    """How often a property or scaffold that was asked for is there, beside molecules that nobody asked for."""
    import json

    from recipes.molecules.reading import molecule_of, scaffold_of
    from recipes.molecules.words import MOLECULE, SCAFFOLD, asking, written

    config, settings = context.config, context.config.evaluate
    edges = json.loads((context.inputs["prepare"] / "properties.json").read_text())
    scores, seed = [], settings.seed + settings.drawn
    for name in config.data.properties:
        context.terminal.write(f"evaluate: asking for {name}\n")
        prompts = [asking(name, number) for number in range(config.data.bins) for _ in range(settings.asked)]
        wanted = [number for number in range(config.data.bins) for _ in range(settings.asked)]
        found = draw(decoder, prompts, seed, config)
        seed += len(prompts)
        got = [_bin(text, name, edges[name]) for text in found.texts]
        hits = sum(one == other for one, other in zip(got, wanted, strict=True))
        said = f"the bin of {config.data.bins} that was asked for, invalid molecules missed; each as often"
        scores.append(_share(f"{GOT}: {name}", "model", hits, len(wanted), said))
        chance = round(len(drawn.molecules) / config.data.bins)
        said = "the molecules that nobody asked for, held against a bin at random"
        scores.append(_share(f"{GOT}: {name}", "by chance", chance, len(drawn.texts), said))
    if config.data.scaffold:
        context.terminal.write("evaluate: asking for scaffolds\n")
        rings = [
            scaffold_of(molecule_of(smiles)) for smiles in smiles_in(context.inputs["prepare"], SCAFFOLDS)
        ]
        rings = list(dict.fromkeys(ring for ring in rings if ring))[: settings.asked * config.data.bins]
        prompts = [f"{SCAFFOLD}{written(ring, config.data)}{MOLECULE}" for ring in rings]
        found = draw(decoder, prompts, seed, config)
        got = [_scaffold(text) for text in found.texts]
        hits = sum(one == other for one, other in zip(got, rings, strict=True))
        said = "scaffolds of the scaffold test, which no training molecule has"
        scores.append(_share(f"{GOT}: scaffold", "model", hits, len(rings), said))
        free = {scaffold_of(molecule) for molecule in drawn.molecules}
        said = "any of the molecules that nobody asked for has it"
        scores.append(
            _share(f"{GOT}: scaffold", "by chance", sum(ring in free for ring in rings), len(rings), said)
        )
    return scores


def _bin(text: str, name: str, edges: list[float]) -> int | None:
    from recipes.molecules.reading import properties_of
    from recipes.molecules.words import bin_of, molecule_or_none

    molecule = molecule_or_none(text)
    return None if molecule is None else bin_of(properties_of(molecule, (name,))[name], edges)


def _scaffold(text: str) -> str | None:
    from recipes.molecules.reading import scaffold_of
    from recipes.molecules.words import molecule_or_none

    molecule = molecule_or_none(text)
    return None if molecule is None else scaffold_of(molecule)


def _published(scores: list[Score]) -> list[Score]:
    """CharRNN's, where ours is there."""
    said = "MOSES's README: trained on 1,584,663 molecules, 30,000 drawn, against the whole test sets; mean of 3 runs"
    return [
        Score(
            score.name,
            "CharRNN, published",
            PUBLISHED[score.name],
            None,
            score.unit,
            30_000,
            said,
            score.better,
        )
        for score in scores
        if score.model == "model" and score.name in PUBLISHED
    ]


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
