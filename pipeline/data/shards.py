"""Token shards on disk: written as a stream, read through a memory map, tied to the tokenizer that made them."""

import copy
import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, final

import numpy as np

from pipeline.run.errors import UserError
from pipeline.run.files import digest_of, write_json


def token_dtype(vocabulary_size: int) -> np.dtype:
    """uint16 while every id below `vocabulary_size` fits, else uint32; little-endian on every machine."""
    return np.dtype("<u2" if vocabulary_size <= 1 << 16 else "<u4")


def tokenizer_digest(directory: Path) -> str:
    """The sha256 of a tokenizer directory's tokenizer.json: the identity that shards carry.

    Raises:
        UserError: the directory holds no tokenizer.json.
    """
    path = Path(directory) / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            f"{directory} holds no tokenizer.json\nexpected: a directory written by save_pretrained of a fast tokenizer"
        )
    return digest_of(path)


@final
class ShardWriter:
    """A context that appends documents to NAME.tokens.bin and NAME.targets.bin, and at its end writes the rest.

    The rest is NAME.offsets.npy, NAME.bytes.npy, of judged answers NAME.labels.npy and NAME.margins.npy, and, last, the
    header NAME.json: a shard without it is unfinished.
    Memory: two int64 a document; tokens go straight to disk.
    """

    def __init__(self, directory: Path, name: str, vocabulary_size: int, tokenizer_sha256: str) -> None:
        self.directory, self.name = Path(directory), name
        self.vocabulary_size, self.tokenizer_sha256 = vocabulary_size, tokenizer_sha256
        self.documents = self.tokens = self.bytes = self.targets = 0
        self.sources: dict[str, int] = {}  # documents by name of source, in the shard's order
        self._dtype = token_dtype(vocabulary_size)
        self._lengths: list[np.ndarray] = []
        self._byte_lengths: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._margins: list[np.ndarray] = []
        self._files = ExitStack()
        self._token_file = self._create("tokens.bin")
        self._target_file: BinaryIO | None = None
        self.weights = [0.0, 1.0]  # what the bytes of targets stand for

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()
        if kind is None:
            self._finish()

    def add(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        byte_lengths: np.ndarray,
        targets: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        margins: np.ndarray | None = None,
        sources: list[str] | None = None,
    ) -> None:
        """Append documents.

        Args:
            ids: the documents' tokens one after the other, [N].
            lengths: tokens of each document, [D], summing to N.
            byte_lengths: UTF-8 bytes that each document's tokens are scored on, [D].
            targets: 1 where the token is supervised, or fp32 weights, [N]; given for every call of a shard or for none.
            labels: uint8, of judged answers, [D]; likewise.
            margins: fp32, of the pair that each judged answer is in, [D]; None: 0.
            sources: the name of each document's source, [D]; those of a source come one after the other.

        Raises:
            UserError: more different weights than a byte can tell apart.
        """
        assert lengths.sum() == len(ids) and len(byte_lengths) == len(lengths), (
            "lengths do not describe these tokens"
        )
        assert not len(ids) or ids.max() < self.vocabulary_size, f"id {ids.max()} >= {self.vocabulary_size}"
        assert not self.documents or (targets is None) == (self._target_file is None), (
            "targets for some documents only"
        )
        ids.astype(self._dtype, copy=False).tofile(self._token_file)
        if targets is not None:
            self._add_targets(targets, len(ids))
        if labels is not None:
            assert len(labels) == len(lengths), "one label a document"
            self._labels.append(labels.astype(np.uint8))
            self._margins.append(np.zeros(len(labels), np.float32) if margins is None else margins)
        for source in sources or ():
            assert source in (*self.sources, source)[-2:], f"documents of {source} stand apart"
            self.sources[source] = self.sources.get(source, 0) + 1
        self._lengths.append(lengths.astype(np.int64))
        self._byte_lengths.append(byte_lengths.astype(np.int64))
        self.documents += len(lengths)
        self.tokens += len(ids)
        self.bytes += int(byte_lengths.sum())

    def _add_targets(self, targets: np.ndarray, tokens: int) -> None:
        assert len(targets) == tokens, "one target a token"
        if self._target_file is None:
            self._target_file = self._create("targets.bin")
        codes = targets if targets.dtype.kind in "bui" else self._codes(targets)
        codes.astype(np.uint8, copy=False).tofile(self._target_file)
        self.targets += int(np.count_nonzero(targets))

    def _codes(self, weights: np.ndarray) -> np.ndarray:
        """Each weight's place in the shard's list of them, which grows."""
        found, places = np.unique(weights.astype(np.float32), return_inverse=True)
        for weight in found.tolist():
            if weight not in self.weights:
                self.weights.append(weight)
        if len(self.weights) > 256:
            raise UserError(
                f"{self.name} has more than 254 different weights of messages\nexpected: a few steps"
            )
        return np.array([self.weights.index(weight) for weight in found.tolist()])[places]

    def _finish(self) -> None:
        none = np.zeros(0, np.int64)
        lengths = np.concatenate([none, *self._lengths])
        np.save(self._path("offsets.npy"), np.concatenate([[0], np.cumsum(lengths)]))
        np.save(self._path("bytes.npy"), np.concatenate([none, *self._byte_lengths]))
        if self._labels:
            np.save(self._path("labels.npy"), np.concatenate(self._labels))
            np.save(self._path("margins.npy"), np.concatenate(self._margins).astype(np.float32))
        write_json(self._path("json"), self._header())

    def _header(self) -> dict[str, Any]:
        return {
            "dtype": self._dtype.str,
            "documents": self.documents,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "has_targets": self._target_file is not None,
            "has_labels": bool(self._labels),
            "has_margins": bool(self._labels),
            "targets": self.targets,
            "weights": self.weights,
            "sources": list(self.sources.items()),
            "vocabulary_size": self.vocabulary_size,
            "tokenizer_sha256": self.tokenizer_sha256,
        }

    def _create(self, suffix: str) -> BinaryIO:
        return self._files.enter_context(open(self._path(suffix), "wb"))

    def _path(self, suffix: str) -> Path:
        return self.directory / f"{self.name}.{suffix}"


@final
class Shard:
    """A finished shard, memory-mapped: opening costs no reading of tokens, and processes share the pages.

    documents, tokens_total, bytes_total, vocabulary_size: counts. sources: documents of each of several, in order.
    tokens: all documents one after the other, uint16 or uint32 [tokens_total].
    targets: uint8 [tokens_total], 0 where a token is not supervised, or None in a shard without supervision.
    weights: fp32, what each value of `targets` stands for: 0, 1, and others where messages have weights.
    offsets: int64 [documents + 1], document i is tokens[offsets[i]:offsets[i + 1]].
    byte_lengths: int64 [documents].
    labels, margins: uint8 and fp32 [documents] of judged answers (pipeline.data.kinds.Judgements), or None.
    """

    def __init__(self, directory: Path, name: str, header: dict) -> None:
        self.directory, self.name = Path(directory), name
        self.documents: int = header["documents"]
        self.tokens_total: int = header["tokens"]
        self.bytes_total: int = header["bytes"]
        self.vocabulary_size: int = header["vocabulary_size"]
        self.sources: dict[str, int] = dict(header["sources"])
        self.tokens = self._map("tokens.bin", np.dtype(header["dtype"]))
        self.targets = self._map("targets.bin", np.dtype(np.uint8)) if header["has_targets"] else None
        self.weights = np.array(header["weights"], np.float32)
        self.offsets = self._load("offsets.npy", self.documents + 1)
        self.byte_lengths = self._load("bytes.npy", self.documents)
        judged = header.get("has_labels")
        self.labels = self._load("labels.npy", self.documents) if judged else None
        self.margins = np.zeros(self.documents, np.float32) if judged else None
        if header.get("has_margins"):
            self.margins = self._load("margins.npy", self.documents)

    @classmethod
    def open(cls, directory: Path, name: str, tokenizer_sha256: str | None = None) -> "Shard":
        """Open NAME in `directory`.

        Args:
            tokenizer_sha256: `tokenizer_digest` of the tokenizer about to be used with it; None: not compared.

        Raises:
            UserError: no such shard, a file of another size than its header says, or another tokenizer.
        """
        path = Path(directory) / f"{name}.json"
        if not path.is_file():
            raise UserError(
                f"no finished shard {name!r} in {directory}\nexpected: {path}\nway out: run the tokenize stage"
            )
        header = json.loads(path.read_text())
        made_with = header["tokenizer_sha256"]
        if tokenizer_sha256 not in (None, made_with):
            raise UserError(
                f"shard {name!r} in {directory} met a tokenizer that is not the one the tokens were made with\n"
                f"tokens: {made_with[:16]}..., this tokenizer.json: {tokenizer_sha256[:16]}...\n"
                "way out: run the tokenize stage again with this tokenizer"
            )
        return cls(directory, name, header)

    def parts(self) -> dict[str, "Shard"]:
        """The documents of each source, as a shard of its own over the same files."""
        ends = np.cumsum([0, *self.sources.values()]).tolist()
        return {name: self._part(*ends[number : number + 2]) for number, name in enumerate(self.sources)}

    def _part(self, first: int, last: int) -> "Shard":
        part = copy.copy(self)
        part.documents, part.sources = last - first, {}
        part.offsets, part.byte_lengths = self.offsets[first : last + 1], self.byte_lengths[first:last]
        part.tokens_total = int(part.offsets[-1] - part.offsets[0])
        part.bytes_total = int(part.byte_lengths.sum())
        return part

    def __reduce__(self) -> tuple:
        """Pickle as a path: a spawned data worker maps the files again instead of receiving every token."""
        return Shard.open, (self.directory, self.name)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, int64 [documents]."""
        return np.diff(self.offsets)

    def document(self, index: int) -> np.ndarray:
        """The tokens of document `index`, a read-only view."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def targets_of(self, index: int) -> np.ndarray:
        """As `targets`, of document `index`; only in a shard with targets."""
        assert self.targets is not None, f"shard {self.name} has no targets"
        return self.targets[self.offsets[index] : self.offsets[index + 1]]

    def _map(self, suffix: str, dtype: np.dtype) -> np.ndarray:
        path = self.directory / f"{self.name}.{suffix}"
        expected, found = self.tokens_total * dtype.itemsize, path.stat().st_size if path.is_file() else -1
        if found != expected:
            raise self._damaged(path, f"{expected} bytes", f"{found} bytes" if found >= 0 else "no file")
        # An empty file cannot be mapped.
        return np.memmap(path, dtype, "r") if expected else np.zeros(0, dtype)

    def _load(self, suffix: str, length: int) -> np.ndarray:
        path = self.directory / f"{self.name}.{suffix}"
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(path, f"{length} numbers", str(error)) from None
        if array.shape != (length,):
            raise self._damaged(path, f"{length} numbers", f"shape {array.shape}")
        return array

    def _damaged(self, path: Path, expected: str, found: str) -> UserError:
        return UserError(
            f"{path} is damaged\nexpected: {expected}, by {self.name}.json; found: {found}\n"
            "way out: run the tokenize stage again"
        )
