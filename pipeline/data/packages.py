"""Python sources of installed packages, those files whose licence is asked for."""

import importlib.metadata
import importlib.util
import re
from functools import cache
from pathlib import Path

from pipeline.data.config import Corpus
from pipeline.data.stdlib import FOREIGN_DIRECTORIES, TEST_DIRECTORIES
from pipeline.run.errors import UserError

HEAD = 4096  # bytes of a file that a notice of its licence stands in
SPDX = re.compile(r"SPDX-License-Identifier:\s*([\w.+ ()-]+)")
# Notices without an identifier: what gives each family away.
NOTICES = (
    ("GPL", re.compile(r"GNU (?:Lesser |Library |Affero )?General Public Licen[sc]e", re.I)),
    ("Apache-2.0", re.compile(r"Apache License,?\s+Version 2", re.I)),
    ("MPL", re.compile(r"Mozilla Public License", re.I)),
)
CLASSIFIERS = {
    "MIT License": "MIT",
    "BSD License": "BSD",
    "Apache Software License": "Apache-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
}
UNKNOWN = "unknown licence"


def files(corpus: Corpus) -> list[tuple[str, Path]]:
    """(package/path, file) of every file with one of the licences, sorted; tests are left out.

    Raises:
        UserError: a package is not installed, or none of its files has such a licence.
    """
    kept = []
    for package in corpus.packages:
        found = [item for item, licence in _licensed(package) if fits(licence, corpus.licences)]
        if not found:
            said = ", ".join(sorted({licence for _, licence in _licensed(package)})[:4]) or "no Python file"
            raise UserError(
                f"corpus.packages: no file of {package} has a licence of corpus.licences; it has: {said}\n"
                f"way out: another package, or corpus.licences with it"
            )
        kept += found
    return sorted(kept)


def left_out(corpus: Corpus) -> dict[str, int]:
    """How many files have another licence, in words."""
    found: dict[str, int] = {}
    for package in corpus.packages:
        for _, licence in _licensed(package):
            if not fits(licence, corpus.licences):
                said = f"file of {package} left out: {licence}"
                found[said] = found.get(said, 0) + 1
    return found


def fits(licence: str, wanted: tuple[str, ...]) -> bool:
    """Whether a licence, or every part of an expression, begins with one of the wanted names.

    An exception (`WITH`) permits more, so the licence that it is of decides.
    """
    parts = re.split(r"\s+(?:AND|OR)\s+|[()]", licence)
    return all(any(part.strip().startswith(name) for name in wanted) for part in parts if part.strip())


@cache
def _licensed(package: str) -> tuple[tuple[tuple[str, Path], str], ...]:
    """((key, file), licence) of each file of an installed package."""
    named = all(part.isidentifier() for part in package.split("."))
    spec = _spec(package) if named else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"corpus.packages: {package} is no installed package\nway out: pip install it, or leave it out"
        )
    root, whole = Path(list(spec.submodule_search_locations)[0]), licence_of_package(package)
    found = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if {*relative.parts} & (TEST_DIRECTORIES | FOREIGN_DIRECTORIES):
            continue
        key = f"{package.replace('.', '/')}/{relative.as_posix()}"
        found.append(((key, path), licence_of_file(path) or whole))
    return tuple(found)


def _spec(package: str):
    """Where a package is; of one inside another, that one is imported."""
    try:
        return importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return None


def licence_of_file(path: Path) -> str | None:
    """The licence that a file's head names; None: it names none."""
    with open(path, "rb") as file:
        head = file.read(HEAD).decode("utf-8", errors="replace")
    named = SPDX.search(head)
    if named:
        return named[1].strip()
    return next((name for name, notice in NOTICES if notice.search(head)), None)


def licence_of_package(package: str) -> str:
    """The licence that the package's metadata names."""
    top = package.partition(".")[0]
    names = importlib.metadata.packages_distributions().get(top, [top])
    try:
        told = importlib.metadata.metadata(names[0])
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN
    if told.get("License-Expression"):
        return str(told["License-Expression"])
    for classifier in told.get_all("Classifier") or []:
        if (name := CLASSIFIERS.get(classifier.rpartition(" :: ")[2])) is not None:
            return name
    short = str(told.get("License") or "").strip()
    return short if short and len(short) < 40 and "\n" not in short else UNKNOWN
