"""Catches sources of another licence in a corpus, tests of a package in it, and near copies of what is held out."""

import sys

import pytest

from pipeline.data import packages, sources
from pipeline.data.config import Corpus
from pipeline.data.conversation import Document
from pipeline.data.overlap import Near
from pipeline.run.errors import UserError

GPL = '"""Copyright. Under the GNU General Public License."""\n'
FILES = {
    "__init__.py": "x = 1\n",
    "mit.py": "# SPDX-License-Identifier: MIT\nx = 1\n",
    "gpl.py": GPL,
    "lesser.py": "# SPDX-License-Identifier: LGPL-2.1-or-later\n",
    "either.py": "# SPDX-License-Identifier: MIT OR GPL-3.0-only\n",
    "deep/apache.py": "# Licensed under the Apache License, Version 2.0\n",
    "deep/late.py": "x = 1\n" * 2000 + GPL,
    "tests/test_x.py": "# SPDX-License-Identifier: MIT\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package whose metadata says BSD."""
    for name, text in FILES.items():
        path = tmp_path / "hw_sample" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    info = tmp_path / "hw_sample-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: hw_sample\nVersion: 1.0\nLicense-Expression: BSD-3-Clause\n"
    )
    (info / "top_level.txt").write_text("hw_sample\n")
    (info / "RECORD").write_text("hw_sample/__init__.py,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    packages._licensed.cache_clear()
    yield "hw_sample"
    packages._licensed.cache_clear()
    sys.modules.pop("hw_sample", None)


def names(corpus: Corpus) -> list[str]:
    return [key.removeprefix("hw_sample/") for key, _ in packages.files(corpus)]


def test_files_are_kept_by_their_own_notice_or_the_packages(package):
    corpus = Corpus(source="packages", packages=(package,))
    assert names(corpus) == ["__init__.py", "deep/apache.py", "deep/late.py", "mit.py"]
    assert packages.left_out(corpus) == {
        "file of hw_sample left out: GPL": 1,
        "file of hw_sample left out: LGPL-2.1-or-later": 1,
        "file of hw_sample left out: MIT OR GPL-3.0-only": 1,
    }
    assert names(corpus.model_copy(update={"licences": ("GPL", "MIT")})) == ["either.py", "gpl.py", "mit.py"]
    assert names(corpus.model_copy(update={"packages": (f"{package}.deep",)})) == [
        "deep/apache.py",
        "deep/late.py",
    ]
    assert [row.key for row in sources.documents(corpus, [])] == [
        f"hw_sample/{name}" for name in names(corpus)
    ]


def test_packages_that_cannot_be_read_are_refused(package):
    for name, licences, said in (
        ("no_such_package", ("MIT",), "is no installed package"),
        ("no_such_package.inside", ("MIT",), "is no installed package"),
        ("../etc", ("MIT",), "is no installed package"),
        (package, ("EUPL",), "no file of hw_sample has a licence of corpus.licences; it has: "),
    ):
        with pytest.raises(UserError, match=said):
            packages.files(Corpus(source="packages", packages=(name,), licences=licences))
    with pytest.raises(ValueError, match="source: packages goes with packages"):
        Corpus(source="stdlib", packages=(package,))
    with pytest.raises(ValueError, match="source: packages goes with packages"):
        Corpus(source="packages")


def test_a_document_is_near_by_its_longer_lines():
    lines = [f"a line that is long enough {n}\n" for n in range(10)]
    near = Near([Document("h", "".join(lines))], 0.5)
    assert near(
        Document("a", "".join(lines[:6]) + "and one that is nowhere else\n" * 3)
    )  # the same line counts once
    assert not near(
        Document("b", "".join(lines[:5]) + "".join(f"another line, which is new {n}\n" for n in range(5)))
    )
    assert near(
        Document("c", "    " + "\n    ".join(line.strip() for line in lines))
    )  # indentation is no difference
    assert not near(Document("d", "x = 1\n" * 50))


@pytest.mark.parametrize(
    "licence, kept",
    [
        ("BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0", True),
        ("Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("MIT AND GPL-3.0-only", False),
    ],
)
def test_every_part_of_an_expression_counts_and_an_exception_only_permits_more(licence, kept):
    assert packages.fits(licence, Corpus(source="packages", packages=("x",)).licences) == kept
