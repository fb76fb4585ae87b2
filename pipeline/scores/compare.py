"""`headwater compare A B [C ...]`: which model foretells held-out texts best, and whether the difference is real."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.run.errors import UserError
from pipeline.scores.intervals import Interval, bootstrap_interval

LONGEST = 1024  # tokens of a window at most
RUN_TEXTS = "tokenize/documents.held_out.jsonl"


@dataclass(frozen=True)
class Compared:
    """A model beside the first: bits per byte, and the difference to the first's, paired by text.

    difference, interval: None of the first itself.
    """

    model: str
    bits: float
    bits_interval: Interval
    difference: float | None
    interval: Interval | None

    @property
    def verdict(self) -> str:
        """In words; 95 % of what resampled texts would have said."""
        if self.difference is None or self.interval is None:
            return "the one compared with"
        low, high = self.interval
        if low <= 0 <= high:
            return "no difference to be seen"
        return "better" if high < 0 else "worse"


def texts_of(data: Path | None, models: list[str]) -> tuple[list[str], str]:
    """(texts, where they are from): a file or folder, or what the first run among the models has held out.

    Raises:
        UserError: there are none.
    """
    from pipeline.data import sources
    from pipeline.data.config import Corpus
    from pipeline.data.rows import kind_of
    from pipeline.scores.bits import read_lines

    if data is None:
        for model in models:
            held = Path(model) / RUN_TEXTS
            if held.is_file():
                return [row["text"] for row in read_lines(held)], str(held)
        raise UserError(
            "none of these is a run with held-out texts\nway out: --data FILE of text, JSON lines or Parquet, or FOLDER"
        )
    path = data.expanduser()
    files = [path] if path.is_file() else path.rglob("*")
    corpus = Corpus(source="auto" if any(map(kind_of, files)) else "text", path=str(data), pattern="**/*")
    found = [document.text for document in sources.documents(corpus, [])]
    if len(found) < 2:
        raise UserError(f"{data} holds {len(found)} texts, and intervals need two or more\nway out: more files or rows")
    return found, str(data)


def compare(models: list[str], texts: list[str], samples: int, seed: int, batch_size: int) -> list[Compared]:
    """Each model on the same texts, in windows of the same length, each with its own tokenizer.

    The interval of a difference resamples texts, the same ones for both models (Efron 1979).

    Raises:
        UserError: a model is not there.
    """
    from pipeline.lm.directory import directory_of

    directories = [directory_of(model) for model in models]
    window = min(_window(directory) for directory in directories)
    byte_lengths = np.array([len(text.encode()) for text in texts])
    found = [_nats(directory, texts, window, batch_size, seed) for directory in directories]
    total = int(byte_lengths.sum())
    compared = []
    for model, nats in zip(models, found, strict=True):
        bits, change = nats / math.log(2), (nats - found[0]) / math.log(2)
        itself = model is models[0]
        compared.append(
            Compared(
                model,
                float(bits.sum()) / total,
                bootstrap_interval(bits, byte_lengths, samples, seed),
                None if itself else float(change.sum()) / total,
                None if itself else bootstrap_interval(change, byte_lengths, samples, seed),
            )
        )
    return compared


def _window(directory: Path) -> int:
    from pipeline.lm.model import config_of, positions_of

    return min(positions_of(config_of(directory)) or LONGEST, LONGEST)


def _nats(directory: Path, texts: list[str], window: int, batch_size: int, seed: int) -> np.ndarray:
    """Nats of each text."""
    from pipeline.lm.model import load_tokenizer, ready
    from pipeline.scores.bits import TextBits
    from pipeline.scores.score import Settings

    rows = [{"key": str(number), "text": text} for number, text in enumerate(texts)]
    settings = Settings(
        seed=seed, window=window, bf16=False, batch_size=batch_size, bootstrap_samples=0, progress=sys.stderr
    )
    found = TextBits("texts", "", rows, None, settings).measure(ready(directory), load_tokenizer(directory))
    return np.array(found["nats"])


def table(compared: list[Compared], texts: list[str], where: str) -> str:
    """Plain text of at most 100 columns."""
    size = sum(len(text.encode()) for text in texts)
    lines = [f"{len(texts):,} texts, {size:,} bytes of {where}; bits per byte, lower is better; 95 % intervals", ""]
    width = max(len(each.model) for each in compared)
    for each in compared:
        line = f"{each.model:{width}}  {each.bits:.3f} {_span(each.bits_interval)}"
        if each.difference is not None and each.interval is not None:
            line += f"  {each.difference:+.3f} {_span(each.interval)}  {each.verdict}"
        lines.append(line)
    lines += ["", f"differences to {compared[0].model}, paired by text"]
    return "\n".join(lines)


def _span(interval: Interval) -> str:
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"
