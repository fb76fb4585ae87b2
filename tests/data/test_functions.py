"""Catches a cut in the wrong place and a verdict that is not ast.parse's: both move the share of parsed functions."""

import pytest

from pipeline.data.functions import accepted, choose, functions_of

HEADER = "def f(x):\n"
METHOD = "    def f(self):\n"


@pytest.mark.parametrize(
    ("header", "continuation"),
    [
        (HEADER, "    return x\n"),
        (HEADER, "    return x\n\n\n# what follows does not count: (\nclass C(\n"),
        (HEADER, "    if x:\n        return 1\n\n    return 2\n)))\n"),
        (HEADER, "    text = '''\nat the margin\n'''\n    return text\nthis is not python\n"),
        (HEADER, "    return g(\n1,\n)\nthis is not python\n"),
        (HEADER, "    return x\n    unfinished = g("),  # the last line was cut by the budget
        (HEADER, "    page = 'a\x0cb'\n    return page\n"),  # a form feed ends no line
        (HEADER, "    return '\\d'\n"),  # an invalid escape is a warning, not an error
        (METHOD, "        return self\n\n    def g(self:\n"),
        (METHOD, "        return self\n\nnot python\n"),
        ("async def f(x):\n", "    await x\n"),
    ],
)
def test_functions_that_are_python(header, continuation):
    assert accepted(header, continuation)


@pytest.mark.parametrize(
    ("header", "continuation"),
    [
        (HEADER, ""),
        (HEADER, "\n\nx = 1\n"),  # no body
        (HEADER, "    return (\n"),
        (HEADER, "    return x +\n\nx = 1\n"),
        (HEADER, "      a = 1\n    b = 2\n"),
        (HEADER, "    '''opened and never closed\n    return x\n"),
        (HEADER, "    return x\x00\n"),
        (HEADER, "    return x"),  # one line, which the budget may have cut
        (METHOD, "    return self\n"),
        (HEADER, "    x = " + "(" * 5000 + "\n"),
        (HEADER, "    x = " + "-" * 100_000 + "1\n"),  # deeper than the parser's stack
    ],
)
def test_functions_that_are_not(header, continuation):
    assert not accepted(header, continuation)


@pytest.mark.parametrize(
    ("header", "continuation", "over"),
    [
        (HEADER, "    return x\n", False),
        (HEADER, "    return x\n\n    # more\n", False),
        (HEADER, "    return x\nd", True),
        (HEADER, "    text = '''\nat the margin\n", False),
        (HEADER, "    return g(\n1,\n)\nx", True),
        (METHOD, "        return self\n\n    def", True),
        (METHOD, "        return self\n\n        ", False),
    ],
)
def test_a_function_is_over_once_nothing_that_follows_can_change_it(header, continuation, over):
    from pipeline.data.functions import accepted_text, is_over

    assert is_over(header, continuation) == over
    for length in range(len(continuation) + 1):  # a model writes it piece by piece
        part = continuation[:length]
        if is_over(header, part):
            for more in ("", "ef g(x): pass\n", "\n    y = 2\n", "(((", "'''\n)))"):
                assert accepted_text(header, part + more) == accepted_text(header, part) is not None


SOURCE = '''\
"""A module."""
import os


@decorated
def first(
    a,  # with a comment: (
    b=")",
) -> "int":
    # before the body

    """Docstring."""
    return a


def one_line(): return 1


class C:
    async def second(self):
        def third():
            return 3
        return third


def last():
    return 4
'''


def test_a_document_is_cut_behind_each_header():
    found = functions_of(SOURCE)
    assert [function.header for function in found] == [
        'def first(\n    a,  # with a comment: (\n    b=")",\n) -> "int":\n',
        "    async def second(self):\n",
        "        def third():\n",
        "def last():\n",
    ]
    assert all("".join(function) == SOURCE for function in found)
    assert found[0].before.endswith("@decorated\n")
    assert found[0].after.startswith("    # before the body\n")


def test_form_feeds_do_not_shift_lines():
    text = "x = 1\n\x0c\ndef f():\n    return 1\n"
    assert [function.header for function in functions_of(text)] == ["def f():\n"]


def test_documents_that_are_not_python_hold_no_functions():
    assert functions_of("def f(:\n    pass\n") == []


def test_the_real_body_of_every_function_is_accepted():
    assert all(accepted(function.header, function.after) for function in functions_of(SOURCE))


def test_functions_are_drawn_by_the_seed():
    texts = [f"def f{i}():\n    return {i}\n\n\ndef g{i}():\n    return {i}\n" for i in range(10)]
    drawn = [function.header for _, function in choose(texts, 5, seed=1)]
    assert drawn == [function.header for _, function in choose(texts, 5, seed=1)]
    assert drawn != [function.header for _, function in choose(texts, 5, seed=2)]
    assert len(set(drawn)) == 5
    assert all(texts[index].count(function.header) == 1 for index, function in choose(texts, 99, seed=0))
    assert len(choose(texts, 99, seed=0)) == 20
