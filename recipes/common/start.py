"""A first recipe for a family and a user's own data: the family's CPU recipe, its section `data` as the data are."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError
from pipeline.run.shipped import RECIPES

LOOKED_AT = 200  # files or rows
OTHER = "other                  # say under which licence the weights may be used"

Settings = dict[str, tuple[Any, str]]  # of the section data -> (value, why)


def of_pictures(recipe: str, data: str) -> str:
    """Of pictures with a class each, or with none. recipe: the shipped one, such as `vae/fashion_mnist`.

    Raises:
        UserError: no picture at `data`, or none that can be read.
    """
    from recipes.common.images.config import Images

    return _picture_recipe(recipe, data, Images, "label_column")


def of_captioned_pictures(recipe: str, data: str) -> str:
    """Of pictures with a caption each. Raises as of_pictures, and where a picture has no caption."""
    from recipes.common.images.config import Captioned

    return _picture_recipe(recipe, data, Captioned, "caption_column")


def _picture_recipe(recipe: str, data: str, section: Any, column: str) -> str:
    from recipes.common.images.config import Images
    from recipes.common.images.readers import open_source

    raw = _recipe(recipe)["data"]
    path = Path(data).expanduser()
    tabled = path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet")))
    kind = "parquet" if tabled else "folder" if path.exists() else "datasets"
    settings = {
        "source": kind,
        "path": data,
        "image_size": raw["image_size"],
        "channels": 3,
        "on_size": "crop",
    }
    if kind != "folder":
        settings |= _columns_of_pictures(data, column)
    elif section is Images and path.is_dir() and not any(child.is_dir() for child in path.iterdir()):
        settings["label_column"] = None
    source = open_source(section(**settings))
    sizes, grey = _looked_at(source)
    noun = "classes" if section is Images else "captions"
    found: Settings = {
        "source": (kind, ""),
        "path": (data, f"{len(source.rows):,} pictures, {len(source.classes):,} {noun}"),
        **{name: (settings[name], "") for name in ("image_column", column) if name in settings},
        "image_size": (raw["image_size"], f"{_range(sizes)} a side as they are; the net is shaped for this"),
        "channels": (1 if grey else 3, "all of them are grey" if grey else "some have colours"),
        "on_size": ("crop", "scale the shorter side and cut the centre out; pad: lay it on white"),
        "on_bad_row": ("skip", "what cannot be used is left out and listed"),
        "held_out": (0.1, "share that is kept to be measured on"),
    }
    without = () if source.classes else ("features",)  # a classifier has nothing to learn from
    return _text(recipe, data, found, without)


def _columns_of_pictures(data: str, column: str) -> dict[str, Any]:
    """The columns of a table: the one that holds pictures, and one of the usual names for what is said of them."""
    row = _first_row(data)
    holds = [name for name, value in row.items() if isinstance(value, bytes | dict) or hasattr(value, "size")]
    others = [name for name in row if name not in holds]
    usual = ["text", "caption"] if column == "caption_column" else ["label", "labels", "class"]
    said = next((name for name in usual if name in others), None)
    return {"image_column": holds[0] if holds else "image", column: said or (others[0] if others else None)}


def _looked_at(source: Any) -> tuple[list[int], bool]:
    """Sides of a number of pictures spread over the source, shorter ones; whether all of them are grey."""
    import io

    from PIL import Image, UnidentifiedImageError

    rows = source.rows[:: max(1, len(source.rows) // LOOKED_AT)][:LOOKED_AT]
    sides, grey = [], True
    for content in source.read(rows):
        try:
            with (
                Image.open(io.BytesIO(content))
                if isinstance(content, bytes)
                else Image.fromarray(content) as one
            ):
                sides.append(min(one.size))
                grey = grey and one.mode in ("1", "L", "LA", "I", "I;16", "F")
        except (UnidentifiedImageError, OSError, TypeError, ValueError, AttributeError):
            continue  # it is told when the recipe runs
    if not sides:
        raise UserError(
            f"none of {len(rows)} pictures looked at can be read\nexpected: PNG, JPEG, WebP and the like"
        )
    return sides, grey


def of_sounds(recipe: str, data: str) -> str:
    """Of clips, a sub-folder a class or none. Raises UserError where there is no clip, or none can be read."""
    from recipes.common.audio.config import Audio
    from recipes.common.audio.readers import open_source

    rate = _recipe(recipe)["data"]["sample_rate"]
    source = open_source(Audio(source="folder", path=data, sample_rate=rate))
    return _text(
        recipe, data, _clip_settings(source, data, rate, "classes", "max_seconds" in _recipe(recipe)["data"])
    )


def of_transcribed_sounds(recipe: str, data: str) -> str:
    """Of clips with what is said in them. Raises as of_sounds, and where a clip has no transcript."""
    from recipes.common.audio.config import Transcribed
    from recipes.common.audio.readers import open_source

    raw = _recipe(recipe)["data"]
    told = Transcribed(
        source="folder", path=data, sample_rate=raw["sample_rate"], max_seconds=raw["max_seconds"]
    )
    return _text(
        recipe, data, _clip_settings(open_source(told), data, raw["sample_rate"], "transcripts", True)
    )


def _clip_settings(source: Any, data: str, rate: int, noun: str, limited: bool) -> Settings:
    import io

    import soundfile

    rates: Counter[int] = Counter()
    seconds, channels = [], set()
    rows = source.rows[:: max(1, len(source.rows) // LOOKED_AT)][:LOOKED_AT]
    for content in source.read(rows):
        try:
            about = soundfile.info(io.BytesIO(content))
        except (soundfile.LibsndfileError, TypeError):
            continue  # it is told when the recipe runs
        rates[about.samplerate] += 1
        seconds.append(about.duration)
        channels.add(about.channels)
    if not rates:
        raise UserError(
            f"none of {len(rows)} clips looked at can be read\nexpected: WAV, FLAC, OGG and the like"
        )
    found: Settings = {
        "source": ("folder", ""),
        "path": (data, f"{len(source.rows):,} clips, {len(source.classes):,} {noun}"),
        "sample_rate": (
            rate,
            f"most have {rates.most_common(1)[0][0]:,}; a higher rate costs as much more time",
        ),
        "on_rate": ("resample", ""),
        "on_channels": ("mix", f"looked at: {' or '.join(map(str, sorted(channels)))} channels"),
        "on_clipped": ("keep", "counted; error refuses clips that are cut flat at full scale"),
        "on_bad_row": ("skip", "what cannot be used is left out and listed"),
        "held_out": (0.1, "share that is kept to be measured on"),
    }
    if limited:
        longest = max(seconds)
        most = min(30.0, float(-(-longest // 1)))
        found["max_seconds"] = (most, f"the longest has {longest:.1f}")
    return found


def of_pairs(recipe: str, data: str) -> str:
    """Of pairs of texts in a table. Raises UserError where it cannot be read, or has no two columns of text."""
    row = _first_row(data)
    texts = [name for name, value in row.items() if isinstance(value, str)]
    if len(texts) < 2:
        raise UserError(
            f"{data} has the columns {', '.join(row)}, of which {len(texts)} hold text\nexpected: two, one a side"
        )
    usual = [name for name in ("source", "input", "text", "document", "article") if name in texts]
    given = usual[0] if usual else texts[0]
    wanted = next((n for n in ("target", "output", "summary", "label") if n in texts and n != given), None)
    wanted = wanted or next(name for name in texts if name != given)
    found: Settings = {
        "source": ("auto" if Path(data).exists() else "datasets", ""),
        "path": (data, f"columns: {', '.join(row)}"),
        "source_column": (given, "what is given"),
        "target_column": (wanted, "what is to be written"),
        "equal_sides": ("drop", "pairs of two equal sides are left out and counted"),
        "on_bad_row": ("skip", "what cannot be used is left out and listed"),
        "held_out": (0.05, "share that is kept to be measured on, by the source side"),
    }
    return _text(recipe, data, found, ())


def _first_row(data: str) -> dict[str, Any]:
    """Every column of a table's first row. Raises UserError where it cannot be read, or is empty."""
    from typing import ClassVar

    from pipeline.data.config import Chat
    from pipeline.data.rows import BadRow
    from pipeline.data.sources import columns_of
    from pipeline.data.tables import table_rows

    class Whole(Chat):
        usual_columns: ClassVar[tuple[str, ...]] = ()

    source = Whole(path=data)
    try:
        return columns_of(source, next(iter(table_rows(source))))
    except BadRow as bad:
        raise UserError(f"{data}: {bad}") from None
    except UserError as error:
        raise UserError(str(error).replace("chat.path: ", "").replace("chat: ", "").split("\nway out")[0]) from None
    except StopIteration:
        raise UserError(f"{data} has no rows") from None


def _recipe(name: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))


def _range(sides: list[int]) -> str:
    return f"{min(sides)}" if min(sides) == max(sides) else f"{min(sides)} to {max(sides)}"


def _text(recipe: str, data: str, found: Settings, without: tuple[str, ...] = ()) -> str:
    """The shipped recipe with another head, `data` and output_dir, without the sections `without`."""
    name = re.sub(r"\W+", "-", Path(data).name.split(".")[0]).strip("-") or "data"
    family = recipe.split("/")[0]
    head = f"""\
# {family} on {data}, as recipes/{recipe}.yaml is on its own data: sizes and steps are those of 2 CPU cores.
#
#   headwater plan THIS_FILE      what a run needs, and whether anything would be refused
#   headwater run  THIS_FILE
"""
    body = (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8").partition("\nrecipe:")[2]
    sections = re.split(r"(?m)^(?=\w+:)", f"recipe:{body}")
    kept = []
    for section in sections:
        title = section.split(":")[0]
        if title in without:
            continue
        if title == "data":
            section = _block("data", found)
        if title == "run":
            section = re.sub(r"(?m)^(  output_dir:).*$", rf"\1 runs/{family}-{name}", section)
        if title == "evaluate" and "features" in without:
            section = (
                f"{section.rstrip()}\n  features: []                     # no classes to learn them from\n\n"
            )
        if title == "export":
            section = re.sub(r"(?m)^(  licence:).*$", rf"\1 {OTHER}", section)
        kept.append(section)
    return head + "".join(kept)


def _block(title: str, found: Settings) -> str:
    lines = [f"{title}:"]
    for key, (value, why) in found.items():
        line = f"  {key}: {json.dumps(value, ensure_ascii=False)}"
        lines.append(f"{line:<32} # {why}" if why else line)
    return "\n".join(lines) + "\n\n"
