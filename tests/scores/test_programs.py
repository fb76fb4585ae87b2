"""Catches functions that cannot be judged, a body that is judged as another's, and pass@k that is not unbiased."""

import io
from itertools import combinations

import numpy as np
import pytest

from pipeline.scores import programs
from pipeline.scores.programs import Program, Programs, module_of, pass_at, programs_of, run
from pipeline.scores.sandbox import PASSED
from pipeline.scores.score import BASE, PRETRAINED, Settings

MODULE = '''
def first(items):
    """The first one.

    >>> first([3, 4])
    3
    >>> first('ab')
    'a'
    """
    for item in items:
        return item


def one_example(x):
    """
    >>> one_example(1)
    1
    """
    return x


@decorated
def second(x):
    """
    >>> second(1)
    1
    >>> second(2)
    2
    """
    return x


def only_said(x):
    """
    >>> only_said(1)
    1
    >>> only_said(2)
    2
    """
'''
SETTINGS = Settings(
    seed=0, window=64, bf16=False, batch_size=4, bootstrap_samples=100, progress=io.StringIO()
)


def test_functions_with_examples_and_a_body_are_found():
    (found,) = programs_of("pack/sub.py", MODULE)
    assert (found.module, found.name) == ("pack.sub", "first")
    assert found.beginning.endswith('    """\n') and found.body.lstrip().startswith("for item in items")
    assert found.beginning + found.body in MODULE
    assert programs_of("a.py", "def broken(:") == []
    assert module_of("pack/__init__.py") == "pack" and module_of("textwrap.py") == "textwrap"


REAL = Program(
    "textwrap",
    "shorten",
    'def shorten(text, width, **kwargs):\n    """Shorten."""\n',
    "    return text[:width]\n",
    ">>> shorten('abc', 2)\n'ab'\n>>> shorten('x', 5)\n'x'\n",
)


def test_bodies_are_judged_each_by_itself_and_cut_where_the_function_ends():
    good = "    return text[:width]\n\n\ndef next_one():\n    raise SystemExit\n"
    bad, broken = "    return text\n", "    return (text\n"
    found = run([(REAL, good), (REAL, broken), (REAL, bad), (REAL, good)])
    assert found[0] == found[3] == PASSED and found[1] == "no Python"
    assert found[2] == "failed 1 of 2 examples"


def test_pass_at_k_is_the_mean_over_all_subsets():
    for passed in range(6):
        verdicts = [1] * passed + [0] * (5 - passed)
        for k in (1, 2, 5):
            every = [max(subset) for subset in combinations(verdicts, k)]
            assert pass_at(k, np.array([passed]), 5)[0] == pytest.approx(np.mean(every))


def test_only_what_its_own_body_passes_and_an_empty_one_does_not_is_asked(monkeypatch):
    wrong = Program("textwrap", "wrap", "def wrap(text):\n", "    return 1\n", ">>> wrap('a')\n2\n")
    trivial = Program("textwrap", "fill", "def fill(text):\n", "    return None\n", ">>> fill('a')\n")
    monkeypatch.setattr(programs, "programs_of", lambda key, text: [REAL, wrong, trivial])
    part = Programs([{"key": "a", "text": ""}], 3, 2, SETTINGS)
    assert part.programs == [REAL] and part.missing == "only 1 of 3 functions can be judged"
    assert part.detail() == {"functions": ["textwrap.shorten"]}
    scores = part.scores({model: {"verdicts": [PASSED, "took longer"]} for model in (PRETRAINED, BASE)})
    assert [(score.name, score.model, score.value) for score in scores] == [
        (name, model, value)
        for model in (PRETRAINED, BASE)
        for name, value in ((programs.NAME, 0.5), (f"{programs.NAME}, one of 2", 1.0))
    ]
