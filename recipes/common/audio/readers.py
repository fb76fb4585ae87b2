"""The clips of every source as rows: a key that decides the split, a class, and the content when it is asked for."""

from pathlib import Path

from recipes.common import debian, told
from recipes.common.audio import transcripts
from recipes.common.audio.config import Audio, Transcribed
from recipes.common.audio.decode import SUFFIXES
from recipes.common.audio.packages import PACKAGES, sonic_pi, tuxpaint
from recipes.common.folders import folder_source
from recipes.common.rows import Source, path_of


def open_source(audio: Audio) -> Source:
    """Every row of the source; contents are read later.

    Raises:
        UserError: nothing at the path, no clip in it, an empty class, or a package that cannot be had.
    """
    if isinstance(audio, Transcribed) and audio.source == "folder":
        return told.folder(path_of(audio), audio, SUFFIXES)
    if audio.source == "folder":
        return folder_source(path_of(audio), SUFFIXES, "clip", audio.labels, audio.held_out)
    package = PACKAGES[audio.source]
    directory = debian.find(package, audio.path) or debian.download(package)
    if isinstance(audio, Transcribed):
        return transcripts.tuxpaint(directory, audio)
    return {"sonic_pi": sonic_pi, "tuxpaint": tuxpaint}[audio.source](directory, audio)


def files_of(audio: Audio) -> dict[str, Path]:
    """The files at the path of clips that are the user's own; the named sets are pinned by their packages."""
    from pipeline.run.outside import files_below

    path = Path(audio.path).expanduser() if audio.path else None
    found = files_below(path) if path and path.exists() else {}
    texts = (".txt", ".csv", ".jsonl") if isinstance(audio, Transcribed) else ()
    return {name: file for name, file in found.items() if file.suffix.lower() in (*SUFFIXES, *texts)}
