"""Stage `prepare`: conversations of any table to rows on disk with their pictures, and a ledger of every row."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.rows import BadRow
from pipeline.data.sources import is_held_out
from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.common.ledger import Record
from recipes.vision_chat.config import Pictured, VisionChatConfig

if TYPE_CHECKING:
    from recipes.vision_chat.rows import Talk

SPLITS = ("train", "held_out")
FIRST_ROWS = 8  # read before anything runs


def check(config: VisionChatConfig) -> None:
    """Raises UserError where a path or a column is missing, or the first rows cannot be used."""
    from pipeline.data import tables
    from pipeline.data.rows import path_of
    from recipes.vision_chat.rows import talks

    data = config.data
    if tables.is_dataset(data):  # type: ignore[arg-type]
        return tables.check_dataset(data)  # type: ignore[arg-type]
    path_of(data)  # type: ignore[arg-type]
    for number, (file, line, talk) in enumerate(talks(data)):
        if isinstance(talk, BadRow) and data.on_bad_row == "error":
            raise _refusal(file, line, talk)
        if number == FIRST_ROWS:
            break


def run(context: Context) -> dict[str, Any]:
    """Write SPLIT.jsonl (messages, and how many pictures), SPLIT.pictures and SPLIT.offsets.npy, and the ledger.

    Raises:
        UserError: a row cannot be used and data.on_bad_row is error; a split is left without rows.
    """
    import numpy as np

    data, record = context.config.data, Record()
    counts = dict.fromkeys(("rows_in", *SPLITS, "skipped"), 0)
    with ExitStack() as files:
        writers = {split: _Writer(context.out, split, files) for split in SPLITS}
        for talk in _usable(data, counts, record):
            split = SPLITS[is_held_out(key_of(talk), data.held_out)]
            counts[split] += 1
            record.seen.update(writers[split].add(talk))
    for split in SPLITS:
        _require_some(split, counts, data)
        np.save(context.out / f"{split}.offsets.npy", np.array(writers[split].offsets, np.int64))
    assert counts["rows_in"] == counts["train"] + counts["held_out"] + counts["skipped"], counts
    tables = {"conversations": [counts], "skipped": record.skipped}
    write_json(context.out / "ledger.json", {name: table for name, table in tables.items() if table})
    return counts | {"fingerprint": record.fingerprint, "licence": data.licence}


class _Writer:
    """The open files of a split."""

    def __init__(self, out: Path, split: str, files: ExitStack) -> None:
        self.rows = files.enter_context(open(out / f"{split}.jsonl", "w", encoding="utf-8"))
        self.pictures = files.enter_context(open(out / f"{split}.pictures", "wb"))
        self.offsets = [0]

    def add(self, talk: "Talk") -> bytes:
        """A digest of what was written."""
        told = json.dumps(
            {"key": talk.key, "messages": talk.messages, "pictures": len(talk.pictures)}, ensure_ascii=False
        )
        self.rows.write(f"{told}\n")
        digest = hashlib.sha256(told.encode())
        for picture in talk.pictures:
            self.pictures.write(picture)
            self.offsets.append(self.offsets[-1] + len(picture))
            digest.update(hashlib.sha256(picture).digest())
        return digest.digest()


def _usable(data: Pictured, counts: dict[str, int], record: Record) -> "Iterator[Talk]":
    """The rows that can be used, at most max_rows read; others are refused, or counted and listed."""
    from recipes.vision_chat.rows import talks

    for file, line, talk in talks(data):
        if counts["rows_in"] == data.max_rows:
            return
        counts["rows_in"] += 1
        if not isinstance(talk, BadRow):
            yield talk
            continue
        if data.on_bad_row == "error":
            raise _refusal(file, line, talk)
        counts["skipped"] += 1
        record.skipped.append({"file": file, "row": line, "reason": str(talk).split("\n")[0]})


def key_of(talk: "Talk") -> str:
    """By which a row is held out: rows that begin with the same picture stay together."""
    return hashlib.sha256(talk.pictures[0]).hexdigest()


def _refusal(file: str, line: int | None, bad: BadRow) -> UserError:
    place = "" if line is None else f":{line}"
    return UserError(
        f"{file}{place}: {bad}\nway out: mend it, or data.on_bad_row=skip to leave such rows out and count them"
    )


def _require_some(split: str, counts: dict[str, int], data: Pictured) -> None:
    if not counts[split]:
        raise UserError(
            f"{split} is empty: {counts['rows_in']} rows in, {counts['skipped']} skipped\n"
            "expected: some to train on and some held out\n"
            f"way out: more rows, or another data.held_out than {data.held_out}"
        )


class Talks:
    """A split of a published `prepare` artifact: messages, and the bytes of pictures, read as they are asked for."""

    def __init__(self, directory: Path, split: str):
        import numpy as np

        with open(directory / f"{split}.jsonl", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        self.messages = [row["messages"] for row in rows]
        self.first = np.cumsum([0] + [row["pictures"] for row in rows])
        self._offsets = np.load(directory / f"{split}.offsets.npy")
        self._bytes = np.memmap(directory / f"{split}.pictures", np.uint8, "r")

    def __len__(self) -> int:
        return len(self.messages)

    def pictures(self, row: int) -> list[bytes]:
        """The encoded pictures of a row, in the order of their places."""
        return [
            self._bytes[self._offsets[number] : self._offsets[number + 1]].tobytes()
            for number in range(self.first[row], self.first[row + 1])
        ]


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("prepare")
