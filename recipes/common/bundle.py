"""One Python file of several modules of ours, published beside weights so that they need no package of ours."""

import ast
import importlib
import re
from pathlib import Path

FUTURE = "from __future__ import annotations\n"  # settings are known to annotations alone


def bundled(modules: list[str], title: str, main: str = "") -> str:
    """The sources of these modules one after the other, each before those that import it, under one docstring.

    Imports of our own modules fall away: what they name stands above, and what they name for annotations alone is
    not asked for. main: a line that runs where the file is a command.

    Raises:
        AssertionError: a module imports one of ours that is not among those before it, or two define one name.
    """
    parts, seen, defined = [f'"""{title}"""\n\n{FUTURE}'], set(), set()
    for name in modules:
        source = Path(importlib.import_module(name).__file__ or "").read_text(encoding="utf-8")
        for own in re.findall(r"^from (recipes\.\S+|pipeline\.\S+) import", source, re.M):
            assert own in seen or own.endswith(".config"), f"{name} imports {own}, which is not in the bundle"
        seen.add(name)
        twice = defined & (own := _defined(source))
        assert not twice, f"{name} defines {', '.join(sorted(twice))}, which the bundle has already"
        defined |= own
        source = source.replace(FUTURE, "")
        source = re.sub(r"^from (?:recipes|pipeline)\.\S+ import (?:\([^)]*\)|.*)\n", "", source, flags=re.M)
        parts.append(re.sub(r'\A"""(.*?)"""\n', _as_comment, source, flags=re.S).strip() + "\n")
    if main:
        parts.append(f'if __name__ == "__main__":\n    {main}\n')
    return "\n\n".join(parts)


def _defined(source: str) -> set[str]:
    """The names of a module's own: classes, functions and constants."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return found


def _as_comment(found: "re.Match[str]") -> str:
    """A module's docstring as a comment: a file has one docstring."""
    return "".join(f"# {line}".rstrip() + "\n" for line in found[1].strip().splitlines())
