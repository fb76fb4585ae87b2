"""What is said in Tux Paint's clips: the names of stamps, as their text files give them in every language."""

from dataclasses import replace
from pathlib import Path

from pipeline.data.sources import is_held_out
from recipes.common.audio import packages
from recipes.common.audio.config import Transcribed
from recipes.common.rows import NO_LABEL, Row, Source


def tuxpaint(directory: Path, audio: Transcribed) -> Source:
    """Each clip with its transcript for a class, held out by the transcript: what is held out was never heard.

    Raises:
        UserError: a language that no clip is in.
    """
    spoken = packages.tuxpaint(directory, audio)
    said = [text_of(Path(row.file), spoken.classes[row.label]) for row in spoken.rows]
    texts = sorted(set(filter(None, said)))
    labels = {text: label for label, text in enumerate(texts)}
    rows = [_row(row, text, labels, audio) for row, text in zip(spoken.rows, said, strict=True)]
    return replace(spoken, classes=tuple(texts), rows=rows)


def _row(row: Row, text: str, labels: dict[str, int], audio: Transcribed) -> Row:
    if text:
        return replace(row, label=labels[text], held_out=is_held_out(text.lower(), audio.held_out))
    wrong = "no transcript in its language\nexpected: a line of it in the stamp's .txt"
    return replace(row, label=NO_LABEL, wrong=wrong)


def text_of(clip: Path, language: str) -> str:
    """The transcript of STAMP_desc_LANGUAGE.ogg by STAMP.txt; "" where there is none.

    The first line of the file is English, the others are LANGUAGE.utf8=TEXT.
    """
    found = packages.SPOKEN.fullmatch(clip.name)
    file = clip.with_name(f"{found[1]}.txt") if found else clip
    if not found or not file.is_file():
        return ""
    first, *lines = file.read_text("utf-8", errors="replace").splitlines() or [""]
    if language == "en":
        return " ".join(first.split())
    for line in lines:
        name, _, text = line.partition("=")
        if name == f"{language}.utf8":
            return " ".join(text.split())
    return ""
