"""Batches of rows to tokens, in order: each kept on disk until its stage is done, by several processes where it pays.

A batch's tokens depend on its rows, the tokenizer and the section alone. A stage that is begun again therefore reads
and filters its sources anew, which is quick, and takes the tokens of every batch that it had finished from disk.
Processes change nothing but the time: what they give is written in the order of the rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.data.chat import Encoded
from pipeline.data.config import Chat
from pipeline.data.conversation import Document
from pipeline.data.kinds import Conversations, Judgements, Kind, Skipped
from tokenizer import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ALONE = 4  # batches, by their characters, that one process encodes before others are started, which takes seconds
MOST = 16  # processes: one reads, filters and writes for all of them
AHEAD = 2  # batches a process that are read before they are asked for
ENCODER = Path(encode.__file__)


class Part(NamedTuple):
    """Rows of a batch that were encoded together. rows: which, by number in the batch; one may be there repeatedly."""

    rows: list[int]
    encoded: Encoded


class Work(NamedTuple):
    """What became of a batch. skipped: rows that were left out; notes: what was done to rows, in words; several: how
    many conversations became several rows, and how many these are.
    """

    parts: list[Part]
    skipped: Skipped
    notes: dict[str, int]
    several: tuple[int, int]


def worked(kind: Kind, rows: list[Any]) -> Work:
    """Encode a batch. What the kind says of its rows is taken out of it, for whoever asked to tell."""
    shared, kind.skipped = kind.skipped, []
    said = kind.said() if isinstance(kind, Conversations) else None
    places = {id(row): number for number, row in enumerate(rows)}
    parts = [Part([places[id(row)] for row in kept], encoded) for kept, encoded in kind.encode(rows)]
    work = Work(parts, kind.skipped, *(kind.said() if isinstance(kind, Conversations) else ({}, (0, 0))))
    kind.skipped = shared
    if said:
        kind.hear(*said)
    return work


class Encoding:
    """The encoder of one kind of rows.

    Args:
        kept: where finished batches lie until `done`. made_by: all that decides a batch's tokens beside its rows.
        load: gives other processes the tokenizer; it is pickled. processes: how many at most; None: one a core.
    """

    def __init__(
        self,
        kind: Kind,
        kept: Path,
        made_by: list[str],
        load: Callable[[], PreTrainedTokenizerFast],
        processes: int | None = None,
    ) -> None:
        self.kind, self.kept, self.load = kind, kept, load
        self.processes = min(processes or len(os.sched_getaffinity(0)), MOST)
        self.made_by = "\0".join([kind.name, kind.source.model_dump_json(), code(), *made_by])
        # Documents are encoded by all cores as it is; answers to be judged depend on the row before.
        self.shared = isinstance(kind, Conversations) and self.processes > 1
        self.skipped: Skipped = []
        kept.mkdir(parents=True, exist_ok=True)

    def over(self, batches: Iterable[tuple[str, list[Any]]]) -> Iterator[tuple[str, list[Any], Work]]:
        """Each (split, rows) with what became of the rows, in order; what was said of them is the kind's then, but for
        those that were skipped, which `done` gives it: behind all that cannot be read, however far that is ahead.

        Raises:
            UserError: a row cannot be encoded, and on_bad_row is error.
        """
        if isinstance(self.kind, Judgements):
            yield from self._judged(batches)
            return
        pool, waiting, seen = None, deque(), 0
        try:
            for split, rows in batches:
                if self.shared and pool is None and seen >= ALONE * self.kind.batch_characters:
                    pool = self._pool()
                seen += sum(map(self.kind.size, rows))
                waiting.append((split, rows, self._begun(rows, pool)))
                while waiting and (pool is None or len(waiting) > AHEAD * self.processes):
                    yield self._finished(*waiting.popleft())
            while waiting:
                yield self._finished(*waiting.popleft())
        finally:
            if pool:
                pool.shutdown(cancel_futures=True)

    def done(self) -> None:
        """What was kept is needed no more."""
        self.kind.skipped += self.skipped
        shutil.rmtree(self.kept, ignore_errors=True)

    def _begun(self, rows: list[Any], pool: ProcessPoolExecutor | None) -> tuple[Path, Work | Future]:
        path = self.kept / f"{self._digest(rows)}.npz"
        if (found := read(path)) is not None:
            return path, found
        return path, pool.submit(_work, rows) if pool else worked(self.kind, rows)

    def _finished(
        self, split: str, rows: list[Any], begun: tuple[Path, Work | Future]
    ) -> tuple[str, list[Any], Work]:
        path, work = begun
        if isinstance(work, Future):
            work = work.result()
        if not path.exists():
            write(path, work)
        self.skipped += work.skipped
        if isinstance(self.kind, Conversations):
            self.kind.hear(work.notes, work.several)
        return split, rows, work

    def _judged(self, batches: Iterable[tuple[str, list[Any]]]) -> Iterator[tuple[str, list[Any], Work]]:
        """Answers to be judged, which are other rows than those that were read, and kept nowhere."""
        for split, rows in batches:
            for kept, encoded in self.kind.encode(rows):
                yield split, kept, Work([Part(list(range(len(kept))), encoded)], [], {}, (0, 0))

    def _digest(self, rows: list[Any]) -> str:
        digest = hashlib.sha256(self.made_by.encode())
        for row in rows:
            plain = isinstance(row, Document)
            said = f"{row.key}\0{row.text}\0" if plain else json.dumps(vars(row), default=repr)
            digest.update(said.encode())
        return digest.hexdigest()

    def _pool(self) -> ProcessPoolExecutor:
        given = (self.kind.source, self.load)
        return ProcessPoolExecutor(self.processes, get_context("spawn"), _start, given)


def code() -> str:
    """What encodes: these modules and the libraries below them."""
    digest = hashlib.sha256()
    for module in sorted([*Path(__file__).parent.glob("*.py"), *ENCODER.parent.glob("*.py")]):
        digest.update(module.read_bytes())
    versions = [version(library) for library in ("tokenizers", "transformers")]
    return " ".join([digest.hexdigest(), *versions])


def write(path: Path, work: Work) -> None:
    """Under its name once it is whole."""
    arrays: dict[str, np.ndarray] = {}
    for number, part in enumerate(work.parts):
        arrays[f"{number}.rows"] = np.array(part.rows, np.int64)
        for name, array in part.encoded._asdict().items():
            if array is not None:
                arrays[f"{number}.{name}"] = array
    said = {"parts": len(work.parts), "skipped": work.skipped, "notes": work.notes, "several": work.several}
    arrays["said"] = np.frombuffer(json.dumps(said).encode(), np.uint8)
    staged = path.with_suffix(".staged")
    with open(staged, "wb") as file:
        np.savez(file, **arrays)
    os.replace(staged, path)


def read(path: Path) -> Work | None:
    """None where nothing, or nothing whole, is there."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            said = json.loads(arrays["said"].tobytes())
            parts = [
                Part(
                    arrays[f"{number}.rows"].tolist(),
                    Encoded(
                        *(
                            arrays[key] if (key := f"{number}.{name}") in arrays else None
                            for name in Encoded._fields
                        )
                    ),
                )
                for number in range(said["parts"])
            ]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        path.unlink()
        return None
    return Work(parts, said["skipped"], said["notes"], tuple(said["several"]))


_mine: Conversations | None = None  # of a process of the pool


def _start(source: Chat, load: Callable[[], PreTrainedTokenizerFast]) -> None:
    global _mine
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each process is one of as many as there are cores
    _mine = Conversations(source, load(), [])


def _work(rows: list[Any]) -> Work:
    assert _mine is not None, "the pool started this process"
    return worked(_mine, rows)
