"""What fine-tuning would teach, to be looked at before anything is trained: figures, and rows with what is taught."""

from itertools import chain
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from pipeline.data.shards import Shard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHOWN, CHARACTERS = 5, 4_000  # rows, and how much of each
COLOURS = {True: "\033[32m", False: "\033[2m"}  # taught: green; what stands around it: dim
PLAIN = "\033[0m"


def supervision(
    shard: Shard, tokenizer: "PreTrainedTokenizerFast", sequence_length: int, shown: int = SHOWN
) -> dict[str, Any]:
    """Figures on the rows of a shard of conversations, and `rows`: some of them, in segments of [text, taught].

    sequence_length: of fine-tuning; rows beyond it are what `finetune.on_long` decides about.
    """
    lengths = shard.lengths
    targets = int(np.count_nonzero(shard.targets))
    middle, long, longest = np.percentile(lengths, (50, 95, 100))
    beyond = lengths > sequence_length
    return {
        "rows": shard.documents,
        "tokens": shard.tokens_total,
        "taught_tokens": targets,
        "taught_share": round(targets / shard.tokens_total, 4),
        "shortest": int(lengths.min()),
        "median": int(middle),
        "95_percent": int(long),
        "longest": int(longest),
        "longer_than_sequence_length": int(beyond.sum()),
        "tokens_beyond_sequence_length": int((lengths - sequence_length)[beyond].sum()),
        "shown": [_segments(shard, tokenizer, int(index)) for index in _spread(shard.documents, shown)],
    }


def _spread(count: int, shown: int) -> np.ndarray:
    """At most `shown` of `count` places, the first among them, evenly apart."""
    return np.unique(np.linspace(0, count - 1, min(count, shown)).astype(int))


def _segments(shard: Shard, tokenizer: "PreTrainedTokenizerFast", index: int) -> list[list[Any]]:
    begin, end = shard.offsets[index], shard.offsets[index + 1]
    ids, taught = shard.tokens[begin:end], shard.targets_of(index)
    cuts = [0, *(np.flatnonzero(np.diff(taught)) + 1), len(ids)]
    pairs = zip(cuts, cuts[1:], strict=False)
    whole = [[tokenizer.decode(ids[first:last]), bool(taught[first])] for first, last in pairs]
    return _shortened(whole)


def _shortened(segments: list[list[Any]]) -> list[list[Any]]:
    """Segments of at most CHARACTERS in all: what is too long loses its middle."""
    most = max(200, CHARACTERS // len(segments))
    return [
        [text if len(text) <= most else f"{text[: most // 2]} [...] {text[-most // 2 :]}", taught]
        for text, taught in segments
    ]


def print_supervision(name: str, found: dict[str, Any], out: TextIO, shown: int) -> None:
    """The figures in a few lines, then rows: what is taught in green on a terminal, elsewhere between >> and <<."""
    out.write(
        f"{name}: {found['rows']:,} rows, {found['tokens']:,} tokens, {found['taught_tokens']:,} of them taught "
        f"({found['taught_share']:.0%})\n"
        f"  a row has {found['shortest']:,} to {found['longest']:,} tokens, half of them at most "
        f"{found['median']:,}, 95 % at most {found['95_percent']:,}\n"
    )
    if found["longer_than_sequence_length"]:
        out.write(
            f"  {found['longer_than_sequence_length']:,} are longer than finetune.sequence_length, by "
            f"{found['tokens_beyond_sequence_length']:,} tokens in all\n"
        )
    for name, counts in chain(found.get("by_source", {}).items(), found.get("by_role", {}).items()):
        rows = f"{counts['rows']:,} rows, " if "rows" in counts else ""
        out.write(f"  {name}: {rows}{counts['tokens']:,} tokens, {counts['taught_tokens']:,} taught\n")
    for number, segments in enumerate(found["shown"][:shown], 1):
        out.write(f"\n--- row {number} of those shown\n")
        for text, taught in segments:
            out.write(
                f"{COLOURS[taught]}{text}{PLAIN}" if out.isatty() else f">>{text}<<" if taught else text
            )
        out.write("\n")
