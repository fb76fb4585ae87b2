"""Catches molecules that change on their way to words, splits that leak, figures that a known answer refutes."""

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rdkit import Chem

from pipeline.data.rows import BadRow
from pipeline.run.errors import UserError
from recipes.molecules import chemistry, prepare, reading
from recipes.molecules.config import MoleculeConfig, Molecules
from recipes.molecules.reading import SPLITS, molecule_of, properties_of, scaffold_of
from recipes.molecules.words import bin_of, document, edges_of, smiles_of, words, written
from tests.molecules.cases import SMILES, write_csv


def settings(path: Path, **changes) -> Molecules:
    return Molecules(
        source="csv", path=str(path), processes=1, held_out=0.1, held_out_scaffolds=0.2, **changes
    )


def prepared(data: Molecules, out: Path) -> tuple[dict, dict[str, list[dict]]]:
    """(metrics, lines by split) of the stage prepare."""
    out.mkdir()
    context = SimpleNamespace(config=SimpleNamespace(data=data), out=out, terminal=io.StringIO())
    metrics = prepare.run(context)
    return metrics, {
        split: [json.loads(line) for line in (out / f"{split}.jsonl").read_text().splitlines()]
        for split in SPLITS
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_csv(tmp_path_factory.mktemp("molecules") / "m.csv", SMILES)


def test_every_molecule_is_there_once_and_scaffolds_are_apart(table, tmp_path):
    spelled = [Chem.MolToSmiles(Chem.MolFromSmiles(smiles), canonical=False) for smiles in SMILES[:9]]
    again = write_csv(tmp_path / "again.csv", [*SMILES, *spelled])
    metrics, lines = prepared(settings(again), tmp_path / "out")
    assert metrics["rows_in"] == len(SMILES) + 9 and metrics["repeated"] == 9
    found = {split: [line["smiles"] for line in rows] for split, rows in lines.items()}
    everything = sum(found.values(), [])
    assert sorted(everything) == sorted({Chem.CanonSmiles(smiles) for smiles in SMILES})
    apart = {scaffold_of(molecule_of(smiles)) for smiles in found["held_out_scaffolds"]}
    others = {scaffold_of(molecule_of(smiles)) for smiles in (*found["train"], *found["held_out"])}
    assert apart and not apart & others


def test_the_split_of_a_molecule_owes_nothing_to_the_others_or_to_processes(table, tmp_path):
    _, whole = prepared(settings(table), tmp_path / "whole")
    _, half = prepared(settings(write_csv(tmp_path / "h.csv", SMILES[::-2])), tmp_path / "half")
    for split in SPLITS:
        assert {line["smiles"] for line in half[split]} <= {line["smiles"] for line in whole[split]}


def test_two_processes_write_what_one_does(table, tmp_path, monkeypatch):
    data = settings(table, randomised=1, properties=("logp",))
    monkeypatch.setattr(prepare, "BATCH", 16)
    prepared(data, tmp_path / "one")
    prepared(data.model_copy(update={"processes": 2}), tmp_path / "two")
    for name in (*(f"{split}.jsonl" for split in SPLITS), "ledger.json", "properties.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_other_orders_of_atoms_are_the_same_molecule_and_only_for_training(table, tmp_path):
    data = settings(table, randomised=2)
    metrics, lines = prepared(data, tmp_path / "out")
    assert metrics["copies"] == 2 * metrics["train"]
    for first in range(0, len(lines["train"]), 3):
        rows = lines["train"][first : first + 3]
        assert {Chem.CanonSmiles(row["text"]) for row in rows} == {rows[0]["smiles"]}
    assert any(row["text"] != Chem.CanonSmiles(row["text"]) for row in lines["train"])
    assert all(row["text"] == row["smiles"] for row in lines["held_out"])


@pytest.mark.parametrize(
    ("smiles", "said"),
    [
        ("", "no SMILES"),
        ("C1CC", "RDKit refuses"),
        ("c1ccc", "RDKit refuses"),
        ("CCO.[Na+]", "several molecules"),
    ],
)
def test_what_is_no_molecule_is_refused_or_skipped_and_listed(tmp_path, smiles, said):
    with pytest.raises(BadRow, match=said):
        molecule_of(smiles)
    table = write_csv(tmp_path / "bad.csv", [*SMILES, smiles])
    said = said if smiles else "no column 'smiles'"  # an empty field of a table is not there
    with pytest.raises(UserError, match=said) as refused:
        prepared(settings(table), tmp_path / "out")
    assert "bad.csv" in str(refused.value) and "data.on_bad_row=skip" in str(refused.value)
    metrics, _ = prepared(settings(table, on_bad_row="skip"), tmp_path / "skipped")
    ledger = json.loads((tmp_path / "skipped/ledger.json").read_text())
    assert metrics["skipped"] == 1 and said in ledger["skipped"][0]["reason"]


def test_lists_of_smiles_are_read_to_the_first_blank(tmp_path):
    (tmp_path / "a.smi").write_text("CCO ethanol\nCCN\tethylamine\n")
    data = Molecules(source="smi", path=str(tmp_path / "a.smi"))
    assert [line.smiles for line in reading.lines(data)] == ["CCO", "CCN"]


def test_moses_has_its_own_splits_and_is_cut_by_a_hash(tmp_path):
    import gzip

    for number, (split, name) in enumerate(reading.FILES.items()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(tmp_path / name, "wt", newline="") as file:
            csv.writer(file).writerows([["SMILES"], *([s] for s in SMILES[30 * number : 30 * number + 30])])
        assert split in SPLITS
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/mcf.csv").write_text("names,smarts\nacid,[CX3](=O)[OX2H1]\n")
    (tmp_path / "metrics/wehi_pains.csv").write_text('"[N;R0]=[N;R0]"   ,"<regId=azo>"\n')
    data = Molecules(source="moses", path=str(tmp_path), max_molecules=11, max_held_out=7, processes=1)
    metrics, lines = prepared(data, tmp_path / "out")
    assert [len(lines[split]) for split in SPLITS] == [11, 7, 7] and metrics["beyond_the_limits"] == 90 - 25
    assert {line["smiles"] for line in lines["train"]} <= {Chem.CanonSmiles(s) for s in SMILES[:30]}
    filters = chemistry.filters_of(tmp_path)
    assert not chemistry.passes(Chem.MolFromSmiles("CC(=O)O"), filters)
    assert chemistry.passes(Chem.MolFromSmiles("CCO"), filters)
    assert not chemistry.passes(Chem.MolFromSmiles("CN=NC"), filters)
    assert not chemistry.passes(Chem.MolFromSmiles("C[N+](C)(C)C"), filters)
    assert not chemistry.passes(Chem.MolFromSmiles("C1CCCCCCCC1"), filters)


@pytest.mark.parametrize("notation", ["smiles", "selfies"])
def test_words_are_a_molecule_again(notation):
    data = Molecules(notation=notation, properties=("logp", "qed"), bins=3, scaffold=True)
    edges = {"logp": [0.0, 1.0], "qed": [0.3, 0.6]}
    texts = []
    for smiles in map(Chem.CanonSmiles, SMILES):
        body, ring = written(smiles, data), scaffold_of(molecule_of(smiles))
        scaffold = written(ring, data) if ring else ""
        text = document(body, {"logp": 0.5, "qed": 0.9}, edges, scaffold)
        assert text.startswith("<logp:1><qed:2>") and ("<scaffold>" in text) == bool(ring)
        assert Chem.CanonSmiles(smiles_of(text, data)) == smiles
        assert Chem.CanonSmiles(smiles_of(body, data)) == smiles
        texts.append(text)
    config = SimpleNamespace(data=data)
    vocabulary = words(config, texts)
    assert len(set(vocabulary)) == len(vocabulary) and {"<logp:0>", "<qed:2>", "<molecule>"} < set(vocabulary)
    assert not any(" " in word for word in vocabulary)


def test_scaffolds_become_prompts_and_a_reward_knows_them(table, tmp_path):
    from recipes.molecules.rewards import drug_likeness

    _, lines = prepared(settings(table, scaffold=True), tmp_path / "out")
    prompts = [json.loads(line) for line in (tmp_path / "out/prompts.jsonl").read_text().splitlines()]
    known = {scaffold_of(molecule_of(line["smiles"])) for line in lines["train"]}
    assert {row["scaffold"] for row in prompts} == known and len(prompts) == len(known)
    assert all(row["prompt"] == f"<scaffold>{row['scaffold']}<molecule>" for row in prompts)
    right = drug_likeness("Cc1ccccc1", "", "c1ccccc1")
    assert right == properties_of(molecule_of("Cc1ccccc1"), ("qed",))["qed"] > 0
    assert drug_likeness("Cc1ccncc1", "", "c1ccccc1") == drug_likeness("Cc1ccc", "", "c1ccccc1") == 0


def test_bins_hold_equally_many():
    values = np.random.default_rng(0).normal(size=1000).tolist()
    edges = edges_of({"x": values}, 5)["x"]
    counts = np.bincount([bin_of(value, edges) for value in values])
    assert counts.tolist() == [200] * 5


def test_properties_are_rdkits_of_known_molecules():
    benzene = properties_of(Chem.MolFromSmiles("c1ccccc1"), ("logp", "qed", "weight", "tpsa", "sa"))
    assert benzene["logp"] == pytest.approx(1.6866, abs=1e-4) and benzene["weight"] == pytest.approx(
        78.114, abs=1e-3
    )
    assert benzene["tpsa"] == 0 and benzene["sa"] == pytest.approx(1.0, abs=0.3) and 0 < benzene["qed"] < 1


def test_a_set_is_like_itself():
    molecules = [Chem.MolFromSmiles(smiles) for smiles in SMILES]
    prints = chemistry.fingerprints(molecules)
    assert chemistry.nearest(prints, prints).min() == 1
    assert chemistry.internal_diversity(prints[:1] * 4) == 0
    assert chemistry.internal_diversity(prints) > 0.5
    for counted in (chemistry.fragments, chemistry.scaffolds):
        assert chemistry.cosine(counted(molecules), counted(molecules)) == pytest.approx(1)
    assert chemistry.cosine(chemistry.scaffolds(molecules[:1]), chemistry.scaffolds([])) == 0


def test_scaffolds_of_one_ring_do_not_count():
    found = chemistry.scaffolds([Chem.MolFromSmiles(s) for s in ("Cc1ccccc1", "Cc1ccc2ccccc2c1", "CCO")])
    assert found == {"c1ccc2ccccc2c1": 1}


def test_the_frechet_distance_tells_sets_apart():
    half = chemistry.activations(SMILES[:45]), chemistry.activations(SMILES[45:])
    chains = chemistry.activations(["C" * n for n in range(3, 48)])
    assert chemistry.frechet(half[0], half[0]) == pytest.approx(0, abs=1e-2)
    assert 0 < chemistry.frechet(*half) < chemistry.frechet(half[0], chains)


def test_randomised_selfies_are_refused():
    with pytest.raises(ValueError, match="randomised is for smiles"):
        Molecules(notation="selfies", randomised=1)
    assert MoleculeConfig.model_fields["data"].annotation is Molecules
