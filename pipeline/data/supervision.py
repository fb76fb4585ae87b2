"""What tuning would teach, to be looked at before anything is trained: figures, and rows with what is taught."""

from itertools import chain
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from pipeline.data.kinds import FOREIGN, UNWANTED, WANTED
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


def judgements(shard: Shard, tokenizer: "PreTrainedTokenizerFast", shown: int) -> dict[str, Any]:
    """Figures on the units of a shard of judged answers (pipeline.data.kinds.Judgements).

    Some of them are `shown`: of each answer what it is, and its segments of [text, judged].
    """
    assert shard.labels is not None and shard.margins is not None, "a shard of judged answers"
    sides, labels = shard.lengths.reshape(-1, 2), shard.labels.reshape(-1, 2)
    paired = not bool((labels == FOREIGN).any())
    said = {WANTED: "chosen" if paired else "wanted", UNWANTED: "rejected" if paired else "not wanted"}
    answers = (0, 1) if paired else (0,)
    return {
        "paired": paired,
        "units": len(sides),
        "tokens": int((sides if paired else sides[:, :1]).sum()),
        "judged_tokens": int(np.count_nonzero(shard.targets)),
        "lengths": sides.sum(1),
        "wanted_share": float((labels[:, 0] == WANTED).mean()),
        "longer_share": float((sides[:, 0] > sides[:, 1]).mean()),
        "margins": bool(shard.margins.any()),
        "shown": [
            [
                [said[int(labels[unit, side])], _segments(shard, tokenizer, 2 * int(unit) + side)]
                for side in answers
            ]
            for unit in (_spread(len(sides), shown) if shown else ())
        ],
    }


def print_judgements(name: str, found: dict[str, Any], sequence_length: int, out: TextIO) -> None:
    """The figures in a few lines, then units: what is judged in green on a terminal, elsewhere between >> and <<."""
    lengths, what = found["lengths"], "pairs" if found["paired"] else "answers with a verdict"
    middle, long = np.percentile(lengths, (50, 95))
    out.write(
        f"{name}: {found['units']:,} {what}, {found['tokens']:,} tokens, {found['judged_tokens']:,} of them judged\n"
        f"  {'both sides have together' if found['paired'] else 'an answer and another to its prompt have'} "
        f"{lengths.min():,} to {lengths.max():,} tokens, half of them at most {middle:,.0f}, 95 % at most {long:,.0f}\n"
    )
    if beyond := int((lengths > sequence_length).sum()) if sequence_length else 0:
        out.write(f"  {beyond:,} are longer than sequence_length {sequence_length}\n")
    if found["paired"]:
        out.write(f"  the chosen answer is the longer one in {found['longer_share']:.0%}\n")
    else:
        out.write(f"  {found['wanted_share']:.0%} are wanted\n")
    if found["margins"]:
        out.write("  they have margins, which reward models learn from\n")
    for number, answers in enumerate(found["shown"], 1):
        for what, segments in answers:
            out.write(f"\n--- {number} of those shown: {what}\n")
            _write_segments(segments, out)


def _write_segments(segments: list[list[Any]], out: TextIO) -> None:
    for text, taught in segments:
        out.write(f"{COLOURS[taught]}{text}{PLAIN}" if out.isatty() else f">>{text}<<" if taught else text)
    out.write("\n")


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
        _write_segments(segments, out)
