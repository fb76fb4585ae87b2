"""Whether what a model writes after a function's header is Python: prompts from held-out code, the cut, the verdict."""

import ast
import io
import tokenize
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Function(NamedTuple):
    """A held-out function: the document's text up to its header, the header with its line end, and all after it."""

    before: str
    header: str
    after: str


def functions_of(text: str) -> list[Function]:
    """Every function of a Python document with a body on lines of its own, in order; none where it does not parse."""
    tree = parsed(text)
    if tree is None:
        return []
    ends = _logical_line_ends(text)
    lines = _lines(text)
    spans = [
        (node.lineno, ends[node.lineno])
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body[0].lineno > ends[node.lineno]
    ]
    return [
        Function("".join(lines[: first - 1]), "".join(lines[first - 1 : last]), "".join(lines[last:]))
        for first, last in sorted(spans)
    ]


def _lines(text: str) -> list[str]:
    """The lines as Python counts them, with their ends; str.splitlines would also cut at a form feed."""
    return io.StringIO(text).readlines()


def _logical_line_ends(text: str) -> dict[int, int]:
    """First physical line of each logical line -> its last physical line, both from 1."""
    ends, first = {}, None
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NEWLINE and first is not None:
            ends[first], first = token.start[0], None
        elif token.type not in (tokenize.NL, tokenize.COMMENT) and first is None:
            first = token.start[0]
    return ends


def choose(texts: list[str], count: int, seed: int) -> list[tuple[int, Function]]:
    """`count` functions (all, where there are fewer) drawn without replacement, with the index of their text."""
    found = [(index, function) for index, text in enumerate(texts) for function in functions_of(text)]
    drawn = np.random.default_rng(seed).permutation(len(found))[:count]
    return [found[index] for index in sorted(drawn)]


def accepted(header: str, continuation: str) -> bool:
    """Whether `header` with `continuation`, cut where the function ends, is a function that ast.parse accepts."""
    return accepted_text(header, continuation) is not None


def accepted_text(header: str, continuation: str) -> str | None:
    """The function that ast.parse accepts, or None.

    The cut is the first line, indented no deeper than the header, that leaves text that parses: such a line may also
    stand inside a string or brackets. Where there is none the function ends with the last complete line.
    """
    return next((text for text in _cuts(header, continuation) if tree_of_function(text)), None)


def is_over(header: str, continuation: str) -> bool:
    """Whether accepted_text gives the same whatever is written on: a line behind the function has begun."""
    return any(tree_of_function(text) for text in _ends(header, continuation))


def _cuts(header: str, continuation: str) -> Iterator[str]:
    yield from _ends(header, continuation)
    yield header + "".join(line for line in _lines(continuation) if line.endswith("\n"))


def _ends(header: str, continuation: str) -> Iterator[str]:
    lines = _lines(continuation)
    for index, line in enumerate(lines):
        if line.strip() and _indentation(line) <= _indentation(header):
            yield header + "".join(lines[:index])


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def tree_of_function(text: str) -> ast.Module | None:
    """The syntax tree of a function, or of a method by itself; None where there is none."""
    # A method stands in a block, which is simpler and safer than taking its indentation away.
    return parsed("if True:\n" + text if _indentation(text) else text)


def parsed(text: str) -> ast.Module | None:
    """The syntax tree, or None where ast.parse refuses the text; its warnings (such as invalid escapes) are nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        # ValueError: null bytes, in older Pythons; the last two: nesting too deep for the parser's stack.
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
