"""Catches a dictionary read at other places than its index says, an article read twice, a broken one read in part."""

import gzip

import pytest

from pipeline.data import dictd, sources
from pipeline.data.config import Corpus
from pipeline.run.errors import UserError

ARTICLES = {
    "00database-info": "About it.\n",
    "abacus": "abacus\n\n  A frame with beads.\n",
    "caf\u00e9": "caf\u00e9\n  A house.\n",
}


def number(value: int) -> str:
    """As dictfmt writes it."""
    digits = dictd.DIGITS[value % 64]
    return digits if value < 64 else number(value // 64) + digits


def write(folder, ending=".dict.dz", lines=()):
    folder.mkdir(exist_ok=True)
    text, index = b"x" * 70, []  # past one digit
    for headword, article in ARTICLES.items():
        index.append(f"{headword}\t{number(len(text))}\t{number(len(article.encode()))}")
        text += article.encode()
    index.insert(2, "Abacus, the" + index[1][len("abacus") :])  # another headword of the same article
    (folder / "d.index").write_text("\n".join([*index, *lines]) + "\n")
    (folder / f"d{ending}").write_bytes(gzip.compress(text) if ending.endswith("z") else text)
    return folder


@pytest.mark.parametrize("ending", [".dict", ".dict.dz"])
def test_each_article_is_a_document_once(tmp_path, ending):
    skipped = []
    found = list(sources.documents(Corpus(source="dictd", path=str(write(tmp_path / "d", ending))), skipped))
    assert [row.text for row in found] == list(ARTICLES.values())[1:] and skipped == []
    assert [row.key.split("::")[0] for row in found] == ["d.index/abacus", "d.index/caf\u00e9"]
    assert number(5 * 4096 + 3 * 64 + 63) == "FD/" and dictd._number("FD/") == 5 * 4096 + 3 * 64 + 63


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["no tabs"], "d.index:5: 'no tabs' is no line of a dictd index"),
        (["word\tA\t?"], "is no line of a dictd index"),
        (["word\tA\tD//"], "'word' lies beyond the end"),
    ],
)
def test_a_broken_index_is_refused_by_its_line(tmp_path, lines, said):
    with pytest.raises(UserError) as refused:
        list(dictd.entries(write(tmp_path / "d", lines=lines) / "d.index"))
    assert said in str(refused.value)


def test_an_index_without_its_text_is_refused(tmp_path):
    (write(tmp_path / "d") / "d.dict.dz").unlink()
    with pytest.raises(UserError, match=r"no d.dict.dz or d.dict beside it"):
        sources.check_corpus(Corpus(source="dictd", path=str(tmp_path / "d")))
