"""Catches a label that says another request, a table that is misread in silence, edges that held-out pictures moved."""

import csv
import json
from collections import Counter

import numpy as np
import pytest

from pipeline.run.errors import UserError
from recipes.common.images.dataset import PreparedImages
from recipes.common.images.sheet import encoded
from recipes.design import attributes
from recipes.design.asked import (
    ANY,
    Attribute,
    NoSuchRequest,
    digits_of,
    label_of,
    labels_in,
    number_of,
    request_of,
)
from recipes.design.attributes import Known, commonest, labels_of
from recipes.design.evaluate import requests_of, unpacked, unseen_of
from recipes.design.measures import measured, thirds
from tests.design.cases import config_of, write_attributes

KNOWN = (
    Attribute("garment", ("Dress", "Ankle boot", ANY)),
    Attribute("tone", (ANY, "dark", "light")),
    Attribute("size", (ANY, "small", "medium", "large")),
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(config, prepared pictures, their attributes)."""
    config = config_of()
    return config, *write_attributes(tmp_path_factory.mktemp("digits"), config)


def test_every_label_says_one_request_and_a_class_alone_has_its_own_number():
    assert labels_in(KNOWN) == 36
    said = [request_of(KNOWN, label) for label in range(36)]
    assert len(set(said)) == 36
    assert [label_of(KNOWN, text) for text in said] == list(range(36))
    assert [number_of(KNOWN, digits_of(KNOWN, label)) for label in range(36)] == list(range(36))
    assert said[:3] == ["garment=Dress", "garment=Ankle boot", ""]
    assert label_of(KNOWN, " tone = light ,size=large, garment=Ankle boot ") == 1 + 3 * (2 + 3 * 3)


@pytest.mark.parametrize(
    "request_, told",
    [("colour=red", "garment, tone, size"), ("tone=darq", "did you mean 'dark'?"), ("tone", "no tone ''")],
)
def test_a_request_that_is_not_known_is_told_with_what_is(request_, told):
    with pytest.raises(NoSuchRequest, match="(?s).*" + told.replace("?", r"\?")):
        label_of(KNOWN, request_)


def test_labels_hold_the_class_and_the_thirds_of_training_pictures(digits):
    _, prepared, directory = digits
    known = Known.open(directory)
    for split in ("train", "held_out"):
        images = PreparedImages.open(prepared, split)
        found = unpacked(known, labels_of(directory, split))
        edges = thirds(measured("tone", PreparedImages.open(prepared, "train").images))
        assert (found[:, 0] == images.labels).all()
        assert (found[:, 1] == 1 + np.digitize(measured("tone", images.images), edges)).all()
        assert (known.measured("tone", images.images) == found[:, 1]).all()
    assert known.classes == 10 and known.null == 10
    assert known.counts == dict(Counter(labels_of(directory, "train").tolist()).most_common())


def test_requests_are_seen_ones_and_unseen_ones_are_not(digits):
    known = Known.open(digits[2])
    asked = requests_of(known, 12, 2)
    assert len(asked) == 12 and all(known.counts[label] >= 2 for label in asked.tolist())
    unseen = unseen_of(known, 8, 2, seed=0)
    assert len(unseen) and not set(unseen.tolist()) & set(known.counts)
    there = unpacked(known, np.array(list(known.counts)))
    for digit, *others in unpacked(known, unseen).tolist():
        for place, other in enumerate(others, start=1):  # each value was seen with the class
            assert ((there[:, 0] == digit) & (there[:, place] == other)).any()


def test_the_page_asks_for_the_commonest_of_each_class(digits):
    known = Known.open(digits[2])
    asked = commonest(known, 2)
    assert [text.split(",")[0] for text in asked] == [f"garment={digit}" for digit in range(10) for _ in "12"]
    first = [label for label in known.counts if label % 11 == 3]
    assert [label_of(known.attributes, text) for text in asked[6:8]] == first[:2]


@pytest.fixture
def own(tmp_path):
    """`own(rows)`: a table beside a folder of a hundred pictures of two classes -> the settings that name both."""
    for number in range(100):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        path = tmp_path / "pictures" / ("a" if number < 60 else "b") / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels, "PNG"))

    def make(rows: list[tuple[str, ...]], head: tuple[str, ...] = ("file", "style")) -> list[str]:
        with open(tmp_path / "table.csv", "w", newline="") as file:
            csv.writer(file).writerows([head, *rows])
        paths = [f"data.path={tmp_path / 'pictures'}", f"attributes.table={tmp_path / 'table.csv'}"]
        return ["data.source=folder", "data.channels=3", "data.held_out=0.2", *paths]

    return make


def test_a_table_gives_values_by_file_and_leaves_the_others_open(own, tmp_path):
    rows = [(f"a/{number:03}.png", "art, deco" if number % 2 else "gothic") for number in range(50)]
    config = config_of(*own(rows))
    attributes.check(config)
    prepared, directory = write_attributes(tmp_path / "run", config)
    known = Known.open(directory)
    style = known.attributes[-1]
    assert (style.name, style.values) == ("style", (ANY, "art  deco", "gothic"))
    table = dict(rows)
    for split in ("train", "held_out"):
        keys = json.loads((prepared / f"{split}.keys.json").read_text())
        found = unpacked(known, labels_of(directory, split))[:, -1]
        wanted = [style.values.index(table[key].replace(",", " ")) if key in table else 0 for key in keys]
        assert found.tolist() == wanted


@pytest.mark.parametrize(
    "rows, head, told",
    [
        ([("a/000.png", "x")], ("picture", "style"), "expected: `file`"),
        ([("a/000.png",)], ("file", "style"), "line 2: 'a/000.png' has not 2 cells"),
        ([("a/000.png", "x"), ("a/000.png", "y")], ("file", "style"), "line 3: 'a/000.png' is there twice"),
        ([("a/000.png", "any")], ("file", "style"), "line 2: the value 'any'"),
        ([("a/000.png", "x")], ("file", "tone"), "'tone' is the name of two attributes"),
        ([(f"a/{n}.png", str(n)) for n in range(300)], ("file", "name"), "'name' has 300 values"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_before_anything_runs(own, rows, head, told):
    config = config_of(*own(rows, head))
    with pytest.raises(UserError, match=told):
        attributes.check(config)


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["attributes.measured=[colour]"], "grey pictures have none"),
        (["attributes.table=a.csv"], "data.source is digits"),
        (["attributes.classes=tone"], "'tone' is the name of two attributes"),
        (["sample.requests=['tone=dark, hue=red']"], "sample.requests: no attribute 'hue'"),
        (["sample.requests=['tone=drak']"], "did you mean 'dark'"),
    ],
)
def test_what_the_settings_rule_out_is_refused(overrides, told):
    with pytest.raises(UserError, match=told):
        attributes.check(config_of(*overrides))


def test_a_class_that_is_not_there_is_refused_before_anything_is_trained(tmp_path):
    """The settings cannot know it; the pictures do, one stage before the net."""
    config = config_of("sample.requests=['garment=77']")
    attributes.check(config)
    with pytest.raises(UserError, match="sample.requests: no garment '77'"):
        write_attributes(tmp_path, config)
