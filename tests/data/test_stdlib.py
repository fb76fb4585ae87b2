"""Catches tests or packages among the documents, a pair under a wrong name, a word of WordNet on both sides."""

import io
import tarfile

import pytest

from pipeline.data import sources, stdlib
from pipeline.data.config import Chat, Corpus
from pipeline.data.sources import is_held_out
from tests.data.reading import read
from tests.helpers import refusal


def test_the_standard_library_comes_without_tests_packages_and_build_records():
    import textwrap

    found, skipped = read(Corpus(source="stdlib"))
    texts = {document.key: document.text for document in found}
    assert skipped == []
    assert list(texts) == sorted(texts)
    assert len(texts) == len(found) > 400
    with open(textwrap.__file__, "rb") as file:
        assert texts["textwrap.py"].encode() == file.read()
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    assert not [key for key in texts if left_out & set(key.split("/")[:-1])]
    assert not [key for key in texts if "_sysconfigdata" in key]
    assert all(text.strip() for text in texts.values())


MODULE = '''
import os
def plain(a, b: int = 2, *c, d="x", **e) -> str:
    """  First line
    of it.

    More of it.
    """
    def inner():
        """Not asked."""
@decorated(1)
async def later(): """Awaits \\d."""
def _private(): "Not asked."
def bare(): pass
def blank():
    """

    """
class Outer:
    "A class."
    class Inner:
        @property
        def value(self): "The value."
        @value.setter
        def value(self, new): "Not the first definition."
    class _Hidden:
        def shown(self): "Not asked."
if os.name == "nt":
    def system(): "On Windows."
else:
    try:
        pass
    except OSError:
        def system(): "Elsewhere."
        def other(): "In a handler."
def long(): "LONG"
'''.replace("LONG", "x" * 401)


def test_docstring_pairs_of_a_module():
    asked = "Write the docstring of this function.\n\n"
    assert stdlib.docstring_pairs(MODULE) == [
        ("plain", asked + "def plain(a, b: int=2, *c, d='x', **e) -> str:", "First line\nof it."),
        ("later", asked + "async def later():", "Awaits \\d."),
        (
            "Outer.Inner.value",
            asked + "class Outer:\n    class Inner:\n        def value(self):",
            "The value.",
        ),
        ("system", asked + "def system():", "On Windows."),
        ("other", asked + "def other():", "In a handler."),
    ]


def test_docstring_conversations_keep_to_the_files_of_the_corpus():
    found, skipped = read(Chat(source="stdlib_docstrings", max_conversations=400))
    assert (len(found), skipped) == (400, [])
    assert len({conversation.key for conversation in found}) == 400
    for conversation in found:
        file = conversation.key.split("::")[0]
        assert file.endswith(".py")
        assert is_held_out(conversation.key, 0.3) == is_held_out(file, 0.3)
        assert [message["role"] for message in conversation.messages] == ["user", "assistant"]
    assert len({is_held_out(conversation.key, 0.3) for conversation in found}) == 2


NOUNS = """\
  1 This software and database is being provided to you
00000001 03 n 02 Polish 0 shoe_polish 1 001 @ 00000002 n 0000 | a substance; used to shine; "rub it"; "again"
00000002 03 n 01 polish 0 000 | smoothness:"a high polish"
"""
ADJECTIVES = "00000003 00 a 01 galore(ip) 0 000 | in great numbers; \n"
WORDNET = {"data.noun": NOUNS, "data.adj": ADJECTIVES, "data.verb": "  licence\n", "data.adv": "  licence\n"}


def unpacked(tmp_path):
    folder = tmp_path / "usr/share/wordnet"
    folder.mkdir(parents=True)
    for name, content in WORDNET.items():
        (folder / name).write_text(content)
    return tmp_path


def packaged(tmp_path):
    """A .deb: an ar archive with a member of odd length before the tar."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:xz") as archive:
        for name, content in WORDNET.items():
            member = tarfile.TarInfo(f"./usr/share/wordnet/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    parts = [("debian-binary", b"2.0"), ("data.tar.xz", tar.getvalue())]
    package = b"!<arch>\n"
    for name, content in parts:
        header = f"{name:<16}{'0':<12}{'0':<6}{'0':<6}{'100644':<8}{len(content):<10}`\n"
        package += header.encode() + content + b"\n" * (len(content) % 2)
    (tmp_path / "made.deb").write_bytes(package)
    return tmp_path / "made.deb"


@pytest.mark.parametrize(
    "made", [unpacked, packaged, lambda tmp_path: unpacked(tmp_path) / "usr/share/wordnet"]
)
def test_wordnet_gives_every_sense_under_its_word(tmp_path, made):
    found, skipped = read(Chat(source="wordnet", path=str(made(tmp_path))))
    given = [(c.key, c.messages[0]["content"], c.messages[1]["content"]) for c in found]
    assert skipped == []
    assert given == [
        ("galore::galore.adjective.00000003", 'Define the adjective "galore".', "in great numbers"),
        ("polish::Polish.noun.00000001", 'Define the noun "Polish".', "a substance; used to shine"),
        ("polish::polish.noun.00000002", 'Define the noun "polish".', "smoothness"),
        (
            "shoe polish::shoe polish.noun.00000001",
            'Define the noun "shoe polish".',
            "a substance; used to shine",
        ),
    ]


def test_a_folder_or_package_without_wordnet_says_how_to_get_it(tmp_path):
    for path in (tmp_path, tmp_path / "other.deb"):
        (tmp_path / "other.deb").write_bytes(b"no package" * 9)
        chat = Chat(source="wordnet", path=str(path))
        for call in (sources.check_chat, read):
            assert "apt-get download wordnet-base && dpkg-deb -x" in refusal(call, chat)


@pytest.mark.parametrize("damage", [lambda data: data.replace(b"7zXZ", b"oops"), lambda data: data[:-100]])
def test_a_damaged_package_is_named(tmp_path, damage):
    package = packaged(tmp_path)
    package.write_bytes(damage(package.read_bytes()))
    assert f"cannot unpack {package}" in refusal(read, Chat(source="wordnet", path=str(package)))


def test_one_wordnet_has_one_fingerprint_packed_or_not(tmp_path):
    packed, folder = (Chat(source="wordnet", path=str(made(tmp_path))) for made in (packaged, unpacked))
    assert sources.fingerprint(packed) == sources.fingerprint(folder)
    assert sources.fingerprint(packed)["bytes"] == sum(map(len, WORDNET.values()))
