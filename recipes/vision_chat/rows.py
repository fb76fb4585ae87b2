"""Conversations about pictures from tables: messages with places for pictures, and the pictures themselves."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data import sources, tables
from pipeline.data.rows import BadRow, brief
from pipeline.data.template import PICTURE
from pipeline.run.errors import nearest
from recipes.vision_chat.config import Pictured

MESSAGES, IMAGES = ("messages", "conversations"), ("images", "image")
PLACE = "<image>"  # in a text: a picture stands here
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
PIXELS = 100_000_000  # of a picture at most, before it is decoded


@dataclass(frozen=True)
class Talk:
    """key: where it comes from; messages: role and content, PICTURE where a picture stands; pictures: their files'
    bytes, in the order of their places."""

    key: str
    messages: tuple[dict[str, str], ...]
    pictures: tuple[bytes, ...]


def talks(data: Pictured) -> Iterator[tuple[str, int | None, Talk | BadRow]]:
    """(file, line, conversation or why there is none) of every row."""
    for row in tables.table_rows(data):  # type: ignore[arg-type]
        try:
            columns = sources.columns_of(data, row)  # type: ignore[arg-type]
            folder = Path(data.images).expanduser() if data.images else Path(row.file).parent
            yield row.file, row.line, talk_of(row.key, columns, data, folder)
        except BadRow as bad:
            yield row.file, row.line, bad


def talk_of(key: str, columns: dict[str, Any], data: Pictured, folder: Path) -> Talk:
    """Raises BadRow: why it cannot be used, and what was expected."""
    messages = columns[_column(columns, data.messages_column, MESSAGES, "data.messages_column")]
    if isinstance(messages, str):
        messages = _parsed(messages)
    if not isinstance(messages, list) or not messages:
        raise BadRow(f"its messages are {brief(messages)}\nexpected: a list of messages")
    found, named = [], []
    for number, message in enumerate(messages):
        role, content, pictures = _message(message, number)
        if pictures or PICTURE in content:
            if role == "assistant":
                raise BadRow(
                    f"message {number} is the assistant's and has a picture\nexpected: pictures in questions"
                )
        found.append({"role": role, "content": content})
        named += pictures
    _require_turns(found)
    places = sum(message["content"].count(PICTURE) for message in found)
    given = [one for one in named if one is not None]
    if len(given) not in (0, places):
        raise BadRow(
            "some of its parts hold a picture and some none\nexpected: all of them, or a column of pictures"
        )
    if not given:
        given = _listed(columns, data)
    if not places and not given:
        raise BadRow(f"it has no picture\nexpected: {PLACE} in a question, and a picture for it")
    if len(given) != places:
        raise BadRow(
            f"its questions have {places} places for pictures, and it has {len(given)} pictures\n"
            f"expected: as many of each; a place is {PLACE} in a text, or a part of type image"
        )
    return Talk(key, tuple(found), tuple(_content(one, folder) for one in given))


def _column(columns: dict[str, Any], named: str | None, usual: tuple[str, ...], setting: str) -> str:
    for name in (named,) if named else usual:
        if columns.get(name) is not None:
            return name
    hint = nearest(named or usual[0], list(columns))[:300]
    raise BadRow(f"no column {named or ' or '.join(usual)}\n{hint}\nway out: {setting}=NAME")


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise BadRow(f"its messages are {brief(text)}\nexpected: a list of messages") from None


def _message(message: Any, number: int) -> tuple[str, str, list[Any]]:
    """(role, content with marks, what its parts name; None for a part that names nothing)."""
    if not isinstance(message, dict):
        raise BadRow(f"message {number} is {brief(message)}\nexpected: an object with role and content")
    role = message.get("role", message.get("from"))
    if role not in ROLES:
        raise BadRow(f"message {number} has the role {brief(role)}\nexpected: {', '.join(ROLES)}")
    content = message.get("content", message.get("value"))
    if isinstance(content, str):
        _require_free(content, number)
        return ROLES[role], content.replace(PLACE, PICTURE), []
    if not isinstance(content, list):
        raise BadRow(
            f"message {number} has the content {brief(content)}\nexpected: a text, or a list of parts"
        )
    texts, pictures = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            _require_free(part["text"], number)
            texts.append(part["text"])
        elif kind in ("image", "image_url"):
            pictures.append(_named(part))
            texts.append(PICTURE)
        else:
            raise BadRow(
                f"message {number} has the part {brief(part)}\nexpected: parts of type text and image"
            )
    return ROLES[role], "".join(texts), pictures


def _require_free(text: str, number: int) -> None:
    if PICTURE in text:
        raise BadRow(
            f"message {number} holds the character U+E002, which marks pictures here\nexpected: none of it"
        )


def _named(part: dict[str, Any]) -> Any:
    """What a part of type image or image_url names; None where a column does."""
    found = next((part[name] for name in ("image", "path", "url", "image_url") if part.get(name)), None)
    return found.get("url") if isinstance(found, dict) and "url" in found else found


def _require_turns(messages: list[dict[str, str]]) -> None:
    turns = [message["role"] for message in messages if message["role"] != "system"]
    expected = ["user", "assistant"] * (len(turns) // 2)
    if turns != expected or not turns:
        raise BadRow(
            f"its turns are {', '.join(turns) or 'none'}\nexpected: user and assistant in turn, from a user"
        )
    for number, message in enumerate(messages):
        if not message["content"].strip():
            raise BadRow(f"message {number} is empty\nexpected: words")


def _listed(columns: dict[str, Any], data: Pictured) -> list[Any]:
    """The pictures of the row's column; none where it has no such column."""
    names = (data.images_column,) if data.images_column else IMAGES
    found = next((columns[name] for name in names if columns.get(name) is not None), None)
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [found]


def _content(named: Any, folder: Path) -> bytes:
    """The bytes of a picture: a file's name, a data: URL, or as `datasets` stores one. Raises BadRow."""
    if isinstance(named, dict):
        named = named.get("bytes") or named.get("path")
    if isinstance(named, str) and named.startswith("data:"):
        try:
            content = base64.b64decode(named.partition(",")[2], validate=True)
        except ValueError:
            raise BadRow(
                f"its picture {named[:40]!r} is no base64\nexpected: data:image/png;base64,..."
            ) from None
    elif isinstance(named, str) and named.startswith(("http://", "https://")):
        raise BadRow(
            f"its picture is {named[:100]!r}\nexpected: a file here: nothing is fetched while data are read"
        )
    elif isinstance(named, str) and named:
        content = _read(folder / named)
    elif isinstance(named, bytes) and named:
        content = named
    elif hasattr(named, "save"):  # a picture that `datasets` has decoded
        content = _encoded(named)
    else:
        raise BadRow(f"its picture is {brief(named)}\nexpected: a file's name or its bytes")
    opened(content)
    return content


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        there = [one.name for one in file.parent.iterdir()] if file.parent.is_dir() else []
        hint = nearest(file.name, there)[:300] if there else f"the folder {file.parent} is missing or empty"
        raise BadRow(f"its picture {file}: {error.strerror}\n{hint}") from None


def _encoded(picture: Any) -> bytes:
    import io

    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def opened(content: bytes, longest_side: int | None = None) -> Any:
    """A PIL picture in RGB, turned as its camera says. Raises BadRow."""
    import io
    import warnings

    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # larger ones are refused below
            picture = Image.open(io.BytesIO(content))
            if picture.width * picture.height > PIXELS:
                raise BadRow(
                    f"its picture has {picture.width} x {picture.height} pixels\nexpected: at most {PIXELS:,}"
                )
            picture = ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = " ".join(str(error).split())[:100]
        raise BadRow(
            f"its {len(content):,} bytes are no picture, or are cut off: {why}\nexpected: PNG, JPEG and the like"
        ) from None
    if longest_side and max(picture.size) > longest_side:
        picture.thumbnail((longest_side, longest_side))
    return picture
