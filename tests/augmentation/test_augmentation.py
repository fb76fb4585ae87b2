"""Catches an answer that cannot be trusted: a held-out text in training, a generator that saw other rows, a verdict
that its figures do not bear, a leak that goes unseen."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.run.errors import UserError
from pipeline.run.results import Score
from pipeline.run.stage import Context, Stage, open_recipe
from recipes.augmentation import curve, generator, prepare
from recipes.augmentation.curve import ALTERED, BOTH, EVEN, MADE, REAL, diets_with, leaks, verdict
from recipes.common.threads import one_thread
from tests.helpers import ROOT
from tests.molecules.cases import SMILES

WORDS = {
    "cat": ("purrs", "meows", "scratches", "sleeps", "hunts", "climbs", "licks"),
    "car": ("brakes", "honks", "drives", "refuels", "parks", "skids", "rusts"),
}
WHERE = (
    "at night",
    "in the rain",
    "by the river",
    "near us",
    "all day",
    "for hours",
    "in town",
    "on sundays",
)
TINY = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
NET = f"model.config={TINY | {'num_key_value_heads': 2, 'tie_word_embeddings': True}}"
SHORT = (NET, "train.max_steps=5", "train.warmup_steps=0", "train.train_batch_size=4", "data.source=csv")
SHORT += ("train.per_device_train_batch_size=4", "train.sequence_length=32", "decoding.max_new_tokens=12")


@pytest.fixture(autouse=True)
def alone():
    with one_thread():
        yield


def sentences() -> list[tuple[str, str]]:
    """(text, class) of 112 sentences, each once."""
    return [
        (f"it {verb} {where}", name) for name, verbs in WORDS.items() for verb in verbs for where in WHERE
    ]


def write_table(path: Path, rows: list[tuple[Any, ...]], head: tuple[str, ...] = ("text", "label")) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def config_of(path: Path, *overrides: str, recipe: str = "glosses") -> Any:
    settings = [*SHORT, f"data.path={path}", "data.held_out=0.3", *overrides]
    return open_recipe(ROOT / f"recipes/augmentation/{recipe}.yaml", settings)[0]


def context_of(config: Any, name: str, out: Path, **inputs: Path) -> Context:
    out.mkdir(parents=True)
    return Context(
        config, Stage(name, f"recipes.augmentation.{name}", {}), inputs, out, out, out, io.StringIO()
    )


def prepared(config: Any, out: Path) -> tuple[dict[str, Any], Path]:
    prepare.check(config)
    return prepare.run(context_of(config, "prepare", out)), out


def test_every_row_is_accounted_for_and_no_text_is_in_both_splits(tmp_path):
    rows = [
        *sentences(),
        ("IT purrs, at night!", "car"),
        ("it purrs at  night", "cat"),
        ("it is rare", "dog"),
    ]
    config = config_of(write_table(tmp_path / "t.csv", rows), "data.max_rows=60", "data.max_held_out=20")
    metrics, directory = prepared(config, tmp_path / "out")
    assert metrics["rows_in"] == 115 and metrics["repeated"] == 2
    assert (metrics["train"], metrics["held_out"]) == (60, 20 - metrics["class_not_in_training"])
    train, held_out = (curve.read(directory, split) for split in ("train", "held_out"))
    assert not {text for text, _ in train} & {text for text, _ in held_out}
    classes = json.loads((directory / "classes.json").read_text())
    truth = dict(rows[:112]) | {"it is rare": "dog"}
    assert all(truth[text] == classes[label] for text, label in train + held_out)


@pytest.mark.parametrize(
    "row, told",
    [
        (("", "cat"), "no column 'text'"),
        (("it purrs", ""), "no column 'label'"),
        (("?!", "cat"), "neither letters"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_or_counted(tmp_path, row, told):
    path = write_table(tmp_path / "t.csv", [row, *sentences()])
    with pytest.raises(UserError, match=told):
        prepared(config_of(path), tmp_path / "refused")
    metrics, directory = prepared(config_of(path, "data.on_bad_row=skip"), tmp_path / "skipped")
    assert metrics["skipped"] == 1
    assert told in json.dumps(json.loads((directory / "ledger.json").read_text())["skipped"])


def test_molecules_are_canonical_and_other_orders_are_the_same_molecule(tmp_path):
    pytest.importorskip("rdkit")
    from rdkit import Chem

    rows = [(smiles, "ring" if "1" in smiles else "chain") for smiles in SMILES]
    rows = [(smiles, str(place % 2)) for place, (smiles, _) in enumerate(rows)]
    path = write_table(tmp_path / "m.csv", [*rows, ("C(C)O.Cl", "0")], ("smiles", "active"))
    columns = ("data.text_column=smiles", "data.label_column=active", "data.on_bad_row=skip")
    config = config_of(path, *columns, recipe="moses")
    metrics, directory = prepared(config, tmp_path / "out")
    assert metrics["skipped"] == 1
    train = curve.read(directory, "train")
    assert all(text == Chem.CanonSmiles(text) for text, _ in train)
    altered = diets_with(train, train[:20], config, seed=0)[ALTERED][len(train) :]
    assert [Chem.CanonSmiles(text) for text, _ in altered] == [text for text, _ in train[:20]]
    assert any(text != own for (text, _), (own, _) in zip(altered, train, strict=False))


def test_thirds_of_a_property_are_those_of_training_molecules():
    rows = {"train": [(str(n), float(n)) for n in range(99)], "held_out": [("x", 40.0), ("y", 98.5)]}
    config = open_recipe(ROOT / "recipes/augmentation/moses.yaml", [])[0]
    assert prepare._classes(rows, config.data, {}) == ["low", "middle", "high"]
    assert [label for _, label in rows["train"]] == ["low"] * 33 + ["middle"] * 33 + ["high"] * 33
    assert [label for _, label in rows["held_out"]] == ["middle", "high"]


def test_diets_add_as_many_rows_as_were_made_and_change_no_label(tmp_path):
    config = config_of(tmp_path)
    rows = [(f"it purrs {n} times a day", 0) for n in range(30)] + [("it honks twice", 1)] * 4
    made = [("it honks", 1)] * 10
    diets = diets_with(rows, made, config, seed=0)
    assert {name: len(diet) for name, diet in diets.items()} == {
        REAL: 34,
        EVEN: 60,
        ALTERED: 44,
        MADE: 10,
        BOTH: 44,
    }
    assert [sum(label for _, label in diets[name]) for name in (REAL, EVEN)] == [4, 30]
    for (text, label), (own, truth) in zip(diets[ALTERED][34:], rows, strict=False):
        assert label == truth and set(text.split()) <= set(own.split())
    assert any(text != own for (text, _), (own, _) in zip(diets[ALTERED][34:], rows, strict=False))
    assert diets_with(rows, made, config, seed=0) == diets and diets_with(rows, made, config, seed=1) != diets


def test_the_classifier_is_scikit_learns_on_the_words_that_its_settings_name(tmp_path):
    config = config_of(tmp_path)
    rows = [(text, ("cat", "car").index(name)) for text, name in sentences()]
    right = curve._right(rows[::2], rows[1::2], config)
    assert right.mean() > 0.9 and right.shape == (56,)
    told = curve.classifier(config).fit(*map(list, zip(*rows, strict=True)))[0].get_feature_names_out()
    assert "purrs at" in told and "it purrs at" not in told
    assert curve._right([("it purrs", 1)], rows, config).mean() == 0.5  # one class knows no other answer


def test_a_generator_learns_its_rows_and_is_the_same_again(tmp_path):
    pytest.importorskip("sklearn")
    path = write_table(tmp_path / "t.csv", sentences())
    config = config_of(path, "train.max_steps=250", "train.learning_rate=0.01", "decoding.temperature=0.5")
    rows = [(f"it {name} now", label) for label, name in enumerate(("purrs", "honks"))] * 8
    twice = [
        generator.learnt(rows, ("cat", "car"), config, seed, None).draw([0, 1] * 4, 7) for seed in (3, 3)
    ]
    assert twice[0] == twice[1], twice
    assert [text == f"it {'honks' if place % 2 else 'purrs'} now" for place, text in enumerate(twice[0])] == [
        True
    ] * 8


def test_the_curve_trains_on_its_share_alone(tmp_path, monkeypatch):
    config = config_of(
        write_table(tmp_path / "t.csv", sentences()),
        "curve.shares=[0.3, 1]",
        "curve.seeds=2",
        "curve.made=0.5",
    )
    _, directory = prepared(config, tmp_path / "prepare")
    seen = []
    real = generator.learnt

    def learnt(rows, *more):
        seen.append(list(rows))
        return real(rows, *more)

    monkeypatch.setattr(generator, "learnt", learnt)
    curve.check(config)
    metrics = curve.run(context_of(config, "curve", tmp_path / "curve", prepare=directory))
    train = curve.read(directory, "train")
    assert [len(rows) for rows in seen] == [round(0.3 * len(train))] * 2 + [len(train)] * 2
    assert seen[0] != seen[1] and all(set(rows) <= set(train) for rows in seen)
    found = [Score(**one) for one in json.loads((tmp_path / "curve/evaluation.json").read_text())["scores"]]
    assert {score.key: score.value for score in found} == {k: v for k, v in metrics.items() if k != "verdict"}
    names = {score.name for score in found}
    assert names == {
        f"{name}, {share} of the rows"
        for name in ("accuracy", "gain", "made rows that are held out", "made rows that are copies")
        for share in ("30%", "100%")
    }
    assert metrics["verdict"].count("made rows ") == 2
    for score in found:
        if score.name.startswith("gain"):
            of = {one.model: one.value for one in found if one.name == score.name.replace("gain", "accuracy")}
            assert score.value == pytest.approx(of[score.model] - of[REAL], abs=1e-12)


def test_a_share_that_is_next_to_nothing_is_refused(tmp_path):
    config = config_of(write_table(tmp_path / "t.csv", sentences()))
    _, directory = prepared(config, tmp_path / "prepare")
    with pytest.raises(UserError, match=r"0.01 of \d+ training rows is 1\nexpected: 10 or more"):
        curve.run(context_of(config, "curve", tmp_path / "curve", prepare=directory))


def test_a_leak_and_a_copy_are_seen_whatever_their_case(tmp_path):
    """The check must be able to fail."""
    rows, held_out = [("it purrs", 0), ("it honks", 1)], [("It meows.", 0)]
    made = [("IT MEOWS", 0), ("it  honks!", 1), ("it barks", 0), ("it sings", 0)]
    found = {score.name: score for score in leaks([(rows, made)], held_out, config_of(tmp_path), 0.1, 2)}
    assert found["made rows that are held out, 10% of the rows"].value == 0.25
    assert found["made rows that are copies, 10% of the rows"].value == 0.25
    none = leaks([(rows, [])], held_out, config_of(tmp_path), 0.1, 2)
    assert [(score.value, score.count, score.interval) for score in none] == [(0.0, 0, (0.0, 1.0))] * 2


@pytest.mark.parametrize(
    "interval, said",
    [((0.01, 0.05), "made rows help"), ((-0.05, -0.01), "hurt"), ((-0.01, 0.05), "no clear difference")],
)
def test_the_verdict_follows_the_interval(interval, said):
    rivals = [
        Score("gain, 1%", name, value, None, "", 1, "", "higher")
        for name, value in ((EVEN, 0.1), (ALTERED, 0.2))
    ]
    both = Score("gain, 1%", BOTH, float(np.mean(interval)), interval, "", 1, "", "higher")
    assert said in verdict([*rivals, both]) and f"{ALTERED}: +0.200" in verdict([*rivals, both])


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["data.source=moses"], "kind must be molecules"),
        (["data.source=wordnet", "data.kinds=[food]"], "two kinds"),
        (["data.source=wordnet", "data.kinds=[food, plnat]", "data.path=null"], "did you mean 'plant'|plant"),
        (["train.per_device_train_batch_size=3"], "does not divide"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(tmp_path, overrides, told):
    with pytest.raises(UserError, match=told):
        config = config_of(write_table(tmp_path / "t.csv", sentences()), *overrides)
        prepare.check(config)
        curve.check(config)
