"""Sections that audio recipes share: clips, and the rate that all of them are brought to; clips with transcripts."""

from typing import ClassVar, Literal

from pipeline.run.config import Section, what


class Audio(Section):
    """Where clips come from, and what all of them are brought to: one channel of 16 bits at one rate."""

    longer_are_cut: ClassVar[bool] = True  # than max_seconds

    source: Literal["sonic_pi", "tuxpaint", "folder"] = what(
        ...,
        "sonic_pi: 165 drums, loops and tones (Debian's sonic-pi-samples); tuxpaint: 7,400 spoken clips in many "
        "languages (tuxpaint-stamps-default); folder: WAV, FLAC, OGG and the like, a sub-folder a class",
    )
    path: str | None = what(None, "folder; sonic_pi, tuxpaint: the package's folder, where it lies elsewhere")
    labels: bool = what(
        True, "classes: the sub-folders, sonic_pi's kinds of sound, tuxpaint's languages; false: none"
    )
    languages: tuple[str, ...] = what((), "tuxpaint: those that are read, such as fr and es; (): all")
    sample_rate: int = what(..., "samples a second", ge=1000, le=192_000)
    on_rate: Literal["error", "resample"] = what("error", "clips of another rate: refuse, or resample")
    on_channels: Literal["error", "mix"] = what("error", "clips of several channels: refuse, or average them")
    on_clipped: Literal["error", "keep"] = what(
        "error", "clips whose loudest samples are cut flat at full scale: refuse, or keep and count"
    )
    on_bad_row: Literal["error", "skip"] = what(
        "error", "clips that cannot be used: refuse, or count and list"
    )
    max_seconds: float | None = what(None, "of a clip, from its beginning; what is cut is counted", gt=0)
    held_out: float = what(
        0.1, "share of clips held out, by a hash of the key; tuxpaint: of its stamps", gt=0, lt=1
    )
    max_clips: int | None = what(None, "clips of each split at most", ge=1)
    licence: str | None = what(None, "SPDX identifier of the clips; known for the sources with a name")


class Transcribed(Audio):
    """Clips with what is said in them. To all that reads clips, a transcript is a class."""

    column_setting: ClassVar[str] = "text_column"
    caption: ClassVar[None] = None
    noun: ClassVar[str] = "clip"
    text_noun: ClassVar[str] = "transcript"
    labels: ClassVar[bool] = True
    longer_are_cut: ClassVar[bool] = False  # the transcript says all of it

    source: Literal["tuxpaint", "folder"] = what(
        ...,
        "tuxpaint: 7,400 spoken names of stamps with transcripts, by language (Debian's tuxpaint-stamps-default); "
        "folder: sound files, transcripts in metadata.csv or metadata.jsonl (file_name and the transcript's column) or "
        "beside each in NAME.txt",
    )
    text_column: str = what("text", "folder: the column of transcripts in a metadata file")
    max_seconds: float = what(..., "of a clip; a longer one cannot be used", gt=0, le=30)
    held_out: float = what(
        0.1, "share of clips held out, by a hash of the key; tuxpaint: of the transcript", gt=0, lt=1
    )

    @property
    def label_column(self) -> str:
        return self.text_column
