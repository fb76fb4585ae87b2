"""The two sources that are no tables: the standard library (files, docstrings) and WordNet (definitions)."""

import ast
import io
import lzma
import os
import re
import sysconfig
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.run.errors import UserError

TEST_DIRECTORIES = {"test", "tests", "idle_test"}
FOREIGN_DIRECTORIES = {"site-packages", "dist-packages", "__pycache__"}
BUILD_RECORD = "_sysconfigdata"  # begins the name of a file that records how this very interpreter was built
LONGEST_CHARACTERS = 400  # of a signature, and of an answer: a pair fits a short row

PARTS_OF_SPEECH = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}  # by suffix of data.*
WORDNET_HELP = (
    "way out: `apt-get download wordnet-base && dpkg-deb -x wordnet-base_*.deb DIR`, then chat.path=DIR"
)


class Pair(NamedTuple):
    """A question with its answer, under a name that is unique in its file."""

    name: str
    question: str
    answer: str


def module_files() -> list[tuple[str, Path]]:
    """(path relative to the standard library, file) of each of its Python files, sorted.

    Left out: tests, installed packages, and the record of the interpreter's own build, which differs by machine.
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if name not in TEST_DIRECTORIES | FOREIGN_DIRECTORIES]
        paths = (Path(directory, name) for name in files if name.endswith(".py"))
        found += [(path.relative_to(root).as_posix(), path) for path in paths]
    return sorted(item for item in found if not item[0].startswith(BUILD_RECORD))


def docstring_pairs(source: str) -> list[Pair]:
    """One pair for each public function or method of a module that has a docstring: its signature, its first paragraph.

    Left out: functions inside functions, names with a leading underscore, signatures and paragraphs longer than
    LONGEST_CHARACTERS, and all but the first definition of a qualified name.

    Raises:
        SyntaxError: `source` is not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in the parsed source are no concern of ours
        tree = ast.parse(source)
    pairs: dict[str, Pair] = {}
    for owners, function in public_functions(tree.body, ()):
        pair = _docstring_pair(owners, function)
        if pair:
            pairs.setdefault(pair.name, pair)
    return list(pairs.values())


Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(
    nodes: Iterable[ast.AST], owners: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Function]]:
    """(names of the enclosing classes, function) of what has no leading underscore, also below `if` and `try`."""
    for node in nodes:
        if isinstance(node, ast.If | ast.Try | ast.ExceptHandler):
            yield from public_functions(ast.iter_child_nodes(node), owners)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, (*owners, node.name))
        elif isinstance(node, Function) and not node.name.startswith("_"):
            yield owners, node


def _docstring_pair(owners: tuple[str, ...], function: Function) -> Pair | None:
    paragraph = re.split(r"\n\s*\n", ast.get_docstring(function) or "", maxsplit=1)[0].strip()
    lines = [f"class {name}:" for name in owners] + [_signature(function)]
    signature = "\n".join("    " * depth + line for depth, line in enumerate(lines))
    if not paragraph or max(len(paragraph), len(signature)) > LONGEST_CHARACTERS:
        return None
    question = f"Write the docstring of this function.\n\n{signature}"
    return Pair(".".join((*owners, function.name)), question, paragraph)


def _signature(function: Function) -> str:
    """`def name(args) -> ret:` on one line, without decorators."""
    bare = type(function)(**{**dict(ast.iter_fields(function)), "body": [], "decorator_list": []})
    return ast.unparse(ast.fix_missing_locations(bare)).strip()


def wordnet_files(path: Path) -> list[tuple[str, bytes]]:
    """(name, content) of WordNet's four data files, from the .deb of wordnet-base or a folder it was unpacked to.

    Raises:
        UserError: they are not there; the message says how to get them.
    """
    names = [f"data.{suffix}" for suffix in sorted(PARTS_OF_SPEECH)]
    found = _packaged(path, names) if path.is_file() else _unpacked(path, names)
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"no WordNet at {path}: {', '.join(missing)} not found\n{WORDNET_HELP}")
    return [(name, found[name]) for name in names]


def _unpacked(path: Path, names: list[str]) -> dict[str, bytes]:
    folders = [path, path / "usr/share/wordnet"]
    return {name: (at / name).read_bytes() for at in folders for name in names if (at / name).is_file()}


def _packaged(path: Path, names: list[str]) -> dict[str, bytes]:
    """A .deb is an `ar` archive, one member of which is the tar of its files: deb(5)."""
    for member, content in _ar_members(path.read_bytes()):
        if member.startswith("data.tar"):
            return _from_tar(content, names, path)
    raise UserError(f"{path} is no Debian package\nexpected: wordnet-base_*.deb\n{WORDNET_HELP}")


def _ar_members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, content) of an `ar` archive: a magic line, then members with headers of 60 bytes at even offsets."""
    at = len(b"!<arch>\n")
    while archive.startswith(b"!<arch>\n") and at + 60 <= len(archive):
        header = archive[at : at + 60]
        size = int(header[48:58])
        yield header[:16].decode().rstrip(" /"), archive[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def _from_tar(content: bytes, names: list[str], path: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            wanted = {Path(member.name).name: member for member in tar if Path(member.name).name in names}
            return {name: tar.extractfile(member).read() for name, member in wanted.items()}
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"cannot unpack {path}: {why}\n{WORDNET_HELP}") from None


class Sense(NamedTuple):
    """A word in one of its senses. examples: sentences that WordNet quotes for it."""

    word: str
    part: str
    offset: str
    definition: str
    examples: tuple[str, ...]

    @property
    def name(self) -> str:
        """Such as `bank::bank.noun.09213565`: all senses of a word have the same beginning."""
        return f"{self.word.lower()}::{self.word}.{self.part}.{self.offset}"


def definition_pairs(path: Path) -> list[Pair]:
    """One pair for each word and sense, sorted by name: all senses of a word together.

    Raises:
        UserError: as wordnet_files.
    """
    return [
        Pair(sense.name, f'Define the {sense.part} "{sense.word}".', sense.definition)
        for sense in senses(path)
    ]


def senses(path: Path) -> list[Sense]:
    """Every word in each of its senses, sorted by name.

    Raises:
        UserError: as wordnet_files.
    """
    found = []
    for name, content in wordnet_files(path):
        part = PARTS_OF_SPEECH[name.removeprefix("data.")]
        lines = content.decode().splitlines()
        found += [sense for line in lines if line[:1] != " " for sense in _senses(line, part)]
    return sorted(found, key=lambda sense: (sense.name, sense.definition))


def _senses(line: str, part: str) -> Iterator[Sense]:
    """The words of one line of a data file, wndb(5): `offset file type count(hex) (word id)* ... | gloss`.

    The definition is the gloss without the examples, which stand in quotes after it.
    """
    head, _, gloss = line.partition(" | ")
    offset, _, _, count, *rest = head.split(" ")
    definition = re.split(r'[;:,]\s*"', gloss)[0].strip(" ;")
    examples = tuple(re.findall(r'"([^"]+)"', gloss[len(definition) :]))
    for word in rest[: 2 * int(count, 16) : 2]:
        word = re.sub(r"\((?:p|a|ip)\)$", "", word).replace("_", " ")  # marks of an adjective's position
        if definition:
            yield Sense(word, part, offset, definition, examples)
