"""Catches a malformed input that is met late, with a traceback, in many words, without the file or the key, or after
something was written: the table of tests/faults/malformed.py, and every limit of every setting of every family."""

import time
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

import pytest

from pipeline.__main__ import main
from pipeline.run.config import Section, load, read_yaml
from pipeline.run.errors import UserError
from pipeline.run.stage import family_of
from tests.faults.malformed import CASES, KINDS, good
from tests.helpers import ROOT
from tests.whole.command import listing

SECONDS = 10.0
BOUNDS = {"ge": -1, "gt": 0, "le": 1, "lt": 0}  # what is added to a limit to be beyond it


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(ROOT)


def test_the_table_has_its_length():
    assert len(CASES) >= 120 and all(len(cases) >= 9 for cases in KINDS.values())


def test_what_the_cases_differ_from_is_taken(tmp_path, capsys, offline):
    assert main(["plan", *good(tmp_path)]) == 0
    assert "parameters: " in capsys.readouterr().out


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_input_is_refused_in_five_lines_before_anything_is_written(
    case, tmp_path, capsys, offline
):
    arguments = case.make(tmp_path)
    capsys.readouterr()
    before, started = listing(tmp_path), time.perf_counter()
    code = main(["plan", *arguments])
    seconds = time.perf_counter() - started
    out, err = capsys.readouterr()
    assert code == 2, out + err
    assert out == "" and err.startswith("error: ") and "Traceback" not in err
    assert len(err.splitlines()) <= 5, err
    for words in case.says:
        assert words.replace("FOLDER", str(tmp_path)) in err
    assert seconds < SECONDS
    assert listing(tmp_path) == before


RECIPES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("recipes/*/*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_limit_of_every_setting_is_kept_and_named(recipe):
    path = ROOT / recipe
    _, tree = read_yaml(path)
    family = family_of(path)
    schema = family.CONFIG if isinstance(family.CONFIG, type) else family.CONFIG(tree)
    tried = 0
    for dotted, value in beyond(schema, tree, ""):
        with pytest.raises(UserError) as told:
            load(schema, path, [f"{dotted}={value}"])
        lines = str(told.value).splitlines()
        assert len(lines) <= 5 and dotted in lines[0], f"{dotted}={value}: {lines}"
        tried += 1
    assert tried >= 20


def beyond(section: type[Section], tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """(key, value just beyond a limit, or a choice misspelt) for every setting of the sections that `tree` has."""
    for name, field in section.model_fields.items():
        dotted, given = f"{prefix}{name}", tree.get(name)
        kinds = _kinds(field.annotation)
        sections = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
        if sections:
            if len(sections) == 1 and isinstance(given, dict):
                yield from beyond(sections[0], given, f"{dotted}.")
            continue
        choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        if choices and all(isinstance(choice, str) for choice in choices) and str not in kinds:
            yield dotted, f"{choices[0]}x"
        for limit in field.metadata:
            for bound, step in BOUNDS.items():
                if (edge := getattr(limit, bound, None)) is not None:
                    yield dotted, edge + step


def _kinds(annotation: Any) -> list[Any]:
    """The kinds of value that a setting may be of."""
    if get_origin(annotation) in (types.UnionType, Union):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    if hasattr(annotation, "__metadata__"):
        return _kinds(annotation.__origin__)
    return [annotation]
