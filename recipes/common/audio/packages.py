"""Sounds that Debian ships: their packages, and their clips as rows."""

import re
from pathlib import Path

from pipeline.data.sources import is_held_out
from pipeline.run.errors import UserError, nearest
from recipes.common.audio.config import Audio
from recipes.common.debian import Package
from recipes.common.folders import file_contents
from recipes.common.rows import NO_LABEL, Row, Source

SONIC_PI = Package(
    title="sonic-pi-samples",
    name="sonic-pi-samples",
    version="3.2.2~repack-8",
    sha256="25f2312d2fae005e6ad0f4726b8ed3084e776006a5a132083506e960224ac79d",
    megabytes=22,
    place=Path("usr/share/sonic-pi/samples"),
    holds=("ambi_choir.flac", "tabla_tun3.flac"),
    way_out="way out: data.path=DIRECTORY that holds its *.flac files",
)
TUXPAINT = Package(
    title="tuxpaint-stamps-default",
    name="tuxpaint-stamps-default",
    version="2022.06.04-1",
    sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    megabytes=161,
    place=Path("usr/share/tuxpaint/stamps"),
    holds=("animals", "symbols"),
    way_out="way out: data.path=DIRECTORY that holds its folders animals, symbols and so on",
)
PACKAGES = {"sonic_pi": SONIC_PI, "tuxpaint": TUXPAINT}
LICENCES = {"sonic_pi": "CC0-1.0", "tuxpaint": "GPL-2.0-or-later"}
SPOKEN = re.compile(r"(.+)_desc(?:_([A-Za-z]+))?\.ogg")  # STAMP_desc_LANGUAGE.ogg; English has no suffix


def sonic_pi(directory: Path, audio: Audio) -> Source:
    """Each sample; its class is the kind of sound that its name begins with, such as `drum` or `loop`."""
    files = sorted(directory.glob("*.flac"))
    kinds = sorted({_kind(file) for file in files})
    rows = [_row(file, file.name, file.name, kinds.index(_kind(file)), audio) for file in files]
    return _labelled(Source(tuple(kinds), rows, file_contents), audio)


def tuxpaint(directory: Path, audio: Audio) -> Source:
    """The spoken names of stamps; the class is the language. A stamp is held out in all of its languages.

    Raises:
        UserError: a language that no clip is in.
    """
    found = [
        (file, match) for file in sorted(directory.rglob("*.ogg")) if (match := SPOKEN.fullmatch(file.name))
    ]
    there = {match[2] or "en" for _, match in found}
    for language in audio.languages:
        if language not in there:
            raise UserError(
                f"data.languages: no clip in {language!r}\n{nearest(language, sorted(there))[:300]}"
            )
    languages = sorted(audio.languages or there)
    rows = [
        _row(file, file.relative_to(directory).as_posix(), _stamp(file, match[1], directory), label, audio)
        for file, match in found
        if (language := match[2] or "en") in languages and (label := languages.index(language)) >= 0
    ]
    return _labelled(Source(tuple(languages), rows, file_contents), audio)


def _kind(file: Path) -> str:
    return file.name.split("_")[0]


def _stamp(file: Path, name: str, directory: Path) -> str:
    return (file.parent.relative_to(directory) / name).as_posix()


def _row(file: Path, key: str, decides: str, label: int, audio: Audio) -> Row:
    return Row(key, str(file), None, label, is_held_out(decides, audio.held_out))


def _labelled(source: Source, audio: Audio) -> Source:
    """The source, without its classes where they are not wanted."""
    if audio.labels:
        return source
    rows = [Row(row.key, row.file, row.row, NO_LABEL, row.held_out) for row in source.rows]
    return Source((), rows, source.read)
