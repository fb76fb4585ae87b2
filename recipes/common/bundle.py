"""One Python file of several modules of ours, published beside weights so that they need no package of ours."""

import importlib
import re
from pathlib import Path


def bundled(modules: list[str], title: str) -> str:
    """The sources of these modules one after the other, each before those that import it, under one docstring.

    Imports of our own modules fall away: what they name stands above. Later modules may not use a name anew.

    Raises:
        AssertionError: a module imports one of ours that is not among those before it.
    """
    parts, seen = [f'"""{title}"""\n'], set()
    for name in modules:
        source = Path(importlib.import_module(name).__file__ or "").read_text(encoding="utf-8")
        for own in re.findall(r"^from (recipes\.\S+|pipeline\.\S+) import", source, re.M):
            assert own in seen, f"{name} imports {own}, which is not in the bundle"
        seen.add(name)
        source = re.sub(r"^from (?:recipes|pipeline)\.\S+ import (?:\([^)]*\)|.*)\n", "", source, flags=re.M)
        parts.append(re.sub(r'\A"""(.*?)"""\n', _as_comment, source, flags=re.S).strip() + "\n")
    return "\n\n".join(parts)


def _as_comment(found: "re.Match[str]") -> str:
    """A module's docstring as a comment: a file has one docstring."""
    return "".join(f"# {line}".rstrip() + "\n" for line in found[1].strip().splitlines())
