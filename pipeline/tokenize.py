"""Stage `tokenize`: documents and conversations to token shards, the held-out rows as text, and the token ledger."""

import io
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from pipeline.data import sources
from pipeline.data.config import Chat, ChatSource, Corpus
from pipeline.data.encoding import Encoding
from pipeline.data.kinds import Documents, Kind, Row, Skipped, kinds
from pipeline.data.ledger import Ledger
from pipeline.data.overlap import Alike, Near, Sieve, digest
from pipeline.data.shards import Shard, ShardWriter, tokenizer_digest
from pipeline.data.supervision import (
    SHOWN,
    judgements,
    print_judgements,
    print_supervision,
    supervision,
)
from pipeline.data.turns import Tally
from pipeline.lm.config import LanguageModelConfig
from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context, Stage, directory_of
from pipeline.run.terminal import bar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FILTERED = "filtered.jsonl"  # examples of each reason
MOST = 10_000  # conversations that `look` reads: it is to take seconds
TRAIN, HELD_OUT = SPLITS = ("train", "held_out")


def check(config: LanguageModelConfig) -> None:
    """Refuse sources that cannot be read.

    Raises:
        UserError: as sources.check_corpus and sources.check_chat.
    """
    if config.corpus:
        sources.check_corpus(config.corpus)
    if config.chat:
        sources.check_chat(config.chat)
    for judged in (config.preferences, config.prompts):
        if judged:
            sources.check_judged(judged)


def describe(config: LanguageModelConfig) -> str:
    """What the plan says of the conversations: the shape of their rows, as the first one has it."""
    return f"conversations are {sources.format_of(config.chat)}" if config.chat else ""


def run(context: Context) -> dict[str, Any]:
    """Write the shards, NAME.held_out.jsonl, ledger.json, turns.json, supervision.json and, where rows
    were skipped, skipped.jsonl, and some of the documents that filters took, in filtered.jsonl.

    Returns:
        `vocabulary_size`; of each shard `SHARD.documents`, `.tokens`, `.bytes` (of the answers in conversations) and
        `.bytes_per_token`, or `.targets` (supervised tokens); the fingerprints of `corpus` and `chat`; `skipped_rows`.

    Raises:
        UserError: the tokenizer does not fit the model, or has no token to separate documents with; a row cannot be
            encoded and on_bad_row is error; a split is left without rows.
    """
    from pipeline.lm.model import load_tokenizer

    config, directory = context.config, tokenizer_directory(context.inputs)
    tokenizer = load_tokenizer(directory)
    vocabulary_size = checked_vocabulary(tokenizer, directory)
    metrics: dict[str, Any] = {"vocabulary_size": vocabulary_size}
    skipped: Skipped = []
    ledgers: list[dict[str, Any]] = []
    notes: dict[str, int] = {}
    tallies = {split: Tally() for split in SPLITS}
    for kind in kinds(config.corpus, config.chat, config.preferences, config.prompts, tokenizer, skipped):
        tokens_in, said = write(kind, context, vocabulary_size, tokenizer_digest(directory), tallies)
        shards = [Shard.open(context.out, f"{kind.name}.{split}") for split in SPLITS]
        require_rows(kind, shards, skipped)
        if isinstance(kind, Documents) and kind.filtered.examples:
            shown = [as_line(row) for rows in kind.filtered.examples.values() for row in rows]
            (context.out / FILTERED).write_text("".join(shown), encoding="utf-8")
        for shard, count in zip(shards, tokens_in.values(), strict=True):
            ledgers.append(Ledger(shard.name, tokens_in=count, kept=shard.tokens_total).as_json())
            metrics |= counts(shard)
        metrics[kind.section] = sources.fingerprint(kind.source)
        notes |= kind.notes() | said
    if config.chat:
        found = {split: tally.as_json() for split, tally in tallies.items()}
        write_json(context.out / "turns.json", found)
    if config.chat and config.finetune:
        found = supervision_of(context.out, config, context.inputs, SHOWN)
        write_json(context.out / "supervision.json", found)
        print_supervision("conversations.train", found[TRAIN], context.terminal, shown=0)
    say(notes, context.terminal)
    write_json(context.out / "ledger.json", {"tokens": ledgers, "skipped_rows": len(skipped), "notes": notes})
    if skipped:
        (context.out / "skipped.jsonl").write_text("".join(map(as_line, skipped)), encoding="utf-8")
    return metrics | {"skipped_rows": len(skipped)}


def supervision_of(
    directory: Path, config: LanguageModelConfig, inputs: dict[str, Path], shown: int
) -> dict[str, dict[str, Any]]:
    """Of each split, what its conversations teach; see `supervision`."""
    from pipeline.lm.model import load_tokenizer

    tokenizer = load_tokenizer(tokenizer_directory(inputs))
    length = config.finetune.sequence_length if config.finetune else 0
    shards = {split: Shard.open(directory, f"conversations.{split}") for split in SPLITS}
    turns = json.loads((directory / "turns.json").read_text())
    return {
        split: supervision(shard, tokenizer, length, shown) | turns[split] for split, shard in shards.items()
    }


def say(notes: dict[str, int], out: TextIO) -> None:
    """What was done to rows otherwise than one might expect."""
    for words, count in notes.items():
        out.write(f"  {count:,} x {words}\n")


def tokenizer_directory(inputs: dict[str, Path]) -> Path:
    """Where the tokenizer lies that this recipe trained, or that its pretrained model brought."""
    return inputs["tokenizer"] if "tokenizer" in inputs else inputs["base"] / "model"


def checked_vocabulary(tokenizer: "PreTrainedTokenizerFast", directory: Path) -> int:
    """One more than the tokenizer's largest id.

    Raises:
        UserError: the model in the same directory has fewer embeddings.
    """
    from transformers import AutoConfig

    vocabulary_size = max(tokenizer.get_vocab().values()) + 1  # ids may have gaps: not the number of entries
    if (directory / "config.json").is_file():
        embeddings = AutoConfig.from_pretrained(directory).get_text_config().vocab_size
        if vocabulary_size > embeddings:
            raise UserError(
                f"the tokenizer in {directory} has ids up to {vocabulary_size - 1}, its model embeddings for "
                f"{embeddings}\nexpected: a tokenizer that belongs to the model"
            )
    return vocabulary_size


def write(
    kind: Kind, context: Context, vocabulary_size: int, tokenizer_sha256: str, tallies: dict[str, Tally]
) -> tuple[dict[str, int], dict[str, int]]:
    """Encode every row of `kind` into the shard of its split.

    Line i of NAME.held_out.jsonl is document i of the shard; of prompts the training rows are kept too. What
    conversations hold is added to `tallies`, by split.

    Returns:
        The tokens encoded for each split; how many training rows are held out as well, or nearly so, in words.
    """
    from pipeline.lm.model import load_tokenizer

    tokens_in = dict.fromkeys(SPLITS, 0)
    by_source: Counter[str] = Counter()
    sieve = _sieve(kind, context.terminal)
    kept = context.out.with_name(f"{context.out.name}.{kind.name}")
    load = partial(load_tokenizer, tokenizer_directory(context.inputs))
    encoding = Encoding(kind, kept, [tokenizer_sha256], load)
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(
                ShardWriter(context.out, f"{kind.name}.{split}", vocabulary_size, tokenizer_sha256)
            )
            for split in SPLITS
        }
        lines = {
            split: stack.enter_context(
                open(context.out / f"{kind.name}.{split}.jsonl", "w", encoding="utf-8")
            )
            for split in kind.recorded
        }
        several = bool(getattr(kind.source, "sources", ()))
        for split, rows, work in encoding.over(_parts(kind, sieve, context.terminal)):
            for places, encoded in work.parts:
                kept = [rows[place] for place in places]
                tokens_in[split] += int(encoded.lengths.sum())
                named = several or encoded.roles is not None
                names = [sources.name_of_source(kind.source, row.key) for row in kept] if named else []
                writers[split].add(
                    encoded.ids,
                    encoded.lengths,
                    encoded.byte_lengths,
                    encoded.targets,
                    encoded.labels,
                    encoded.margins,
                    names if several else None,
                )
                if split == TRAIN and several:
                    for name, length in zip(names, encoded.lengths.tolist(), strict=True):
                        by_source[name] += length
                if encoded.roles is not None:
                    tallies[split].add(names, encoded.lengths, encoded.roles, encoded.targets)
                if split in lines:
                    lines[split].writelines(as_line(kind.record(row)) for row in kept)
    encoding.done()
    total = sum(by_source.values())
    shares = {f"training tokens of source {name}, {n / total:.3f} of all": n for name, n in by_source.items()}
    return tokens_in, sieve.notes | shares


def _parts(kind: Kind, sieve: Sieve, terminal: TextIO) -> Iterator[tuple[str, list[Row]]]:
    """(split, rows) batch by batch: what is held out, and what is left of the rest, as often as it is to be there."""
    for rows in batches(bar(kind.rows(), kind.name, terminal), kind.size, kind.batch_characters):
        parts = divide(rows, kind.source)
        parts[TRAIN] = [
            row for row in sieve(parts[TRAIN]) for _ in range(sources.repeats_of(kind.source, row.key))
        ]
        yield from ((split, part) for split, part in parts.items() if part)


def _sieve(kind: Kind, terminal: TextIO) -> Sieve:
    """What is left out of the training rows of `kind`; reads those that are held out."""
    source = kind.source
    corpus = source if isinstance(source, Corpus) else None
    share = corpus.held_out_near if corpus else None
    held = {digest(row) for row in bar(sources.held_out_rows(source), f"held-out {kind.name}", terminal)}
    return Sieve(
        kind.name,
        held,
        source.held_out_overlap,
        Near(sources.held_out_rows(source), share) if share else None,
        corpus.duplicates if corpus else "keep",
        Alike(corpus.near_duplicates) if corpus and corpus.near_duplicates else None,
    )


def batches(rows: Iterable[Row], size: Callable[[Row], int], limit: int) -> Iterator[list[Row]]:
    """Consecutive rows in lists of at least `limit` characters; the last list holds what is left."""
    batch, held = [], 0
    for row in rows:
        batch.append(row)
        held += size(row)
        if held >= limit:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def divide(rows: list[Row], source: sources.Section) -> dict[str, list[Row]]:
    """The rows of each split, in order, by a hash of their keys."""
    parts: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row in rows:
        parts[HELD_OUT if sources.goes_to_held_out(source, row.key) else TRAIN].append(row)
    return parts


def require_rows(kind: Kind, shards: list[Shard], skipped: Skipped) -> None:
    """Refuse an empty split.

    Raises:
        UserError: it names the split, the rows read, and the first skipped row if any.
    """
    rows = sum(shard.documents for shard in shards)
    for shard in shards:
        if not shard.documents:
            why = f"; {len(skipped)} were skipped, the first: {skipped[0]}" if skipped else ""
            why += "".join(f"; {count:,} {words}" for words, count in kind.notes().items())
            raise UserError(
                f"{shard.name} is empty: {rows} {kind.name} in all{why}\n"
                "expected: some to train on and some held out\n"
                f"way out: more {kind.name}, or another {kind.section}.held_out than {kind.source.held_out}"
            )


def counts(shard: Shard) -> dict[str, float]:
    """What the shard holds, as metrics named after it."""
    figures = {
        "documents": shard.documents,
        "tokens": shard.tokens_total,
        "bytes": shard.bytes_total,
    }
    if shard.targets is None:
        figures["bytes_per_token"] = shard.bytes_total / shard.tokens_total
    else:
        figures["targets"] = int(np.count_nonzero(shard.targets))
    return {f"{shard.name}.{name}": value for name, value in figures.items()}


def as_line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def look(config: LanguageModelConfig, shown: int, out: TextIO) -> None:
    """Tokenize the conversations, or where there are none the judged answers, elsewhere, and print what they teach.

    Raises:
        UserError: the recipe has no section `chat` or `preferences`, or no tokenizer yet; whatever the stage tokenize
            refuses.
    """
    judged = None if getattr(config, "chat", None) else getattr(config, "preferences", None)
    if not (judged or getattr(config, "chat", None)):
        raise UserError(
            "this recipe has no conversations to look at\nexpected: a section `chat` or `preferences`"
        )
    fewer = {"corpus": None, "prompts": None, "chat": None, "preferences": None}
    if judged:
        most = min(judged.max_preferences or MOST, MOST)
        fewer["preferences"] = judged.model_copy(update={"max_preferences": most})
    else:
        fewer["chat"] = _fewer(config.chat)
    config = config.model_copy(update=fewer)
    check(config)
    with tempfile.TemporaryDirectory() as folder:
        inputs, made = _tokenizer_before(config, Path(folder)), Path(folder) / "out"
        made.mkdir()
        terminal = io.StringIO()
        context = Context(
            config, Stage("tokenize", "pipeline.tokenize", {}), inputs, made, made, made, terminal
        )
        metrics = run(context)
        if judged:
            _look_at_answers(config, made, inputs, shown, out)
            say(json.loads((made / "ledger.json").read_text())["notes"], out)
            return
        out.write(f"{describe(config)}\n")
        if metrics["conversations.train.documents"] + metrics["conversations.held_out.documents"] >= MOST:
            out.write(f"the first {MOST:,} conversations:\n")
        for split, found in supervision_of(made, config, inputs, shown).items():
            print_supervision(f"conversations.{split}", found, out, shown if split == TRAIN else 0)
        say(json.loads((made / "ledger.json").read_text())["notes"], out)


def _look_at_answers(
    config: LanguageModelConfig, made: Path, inputs: dict[str, Path], shown: int, out: TextIO
) -> None:
    from pipeline.lm.model import load_tokenizer

    tokenizer = load_tokenizer(tokenizer_directory(inputs))
    section = config.prefer or config.reward_model
    for split in SPLITS:
        shard = Shard.open(made, f"preferences.{split}")
        if shard.documents:
            rows = judgements(shard, tokenizer, shown if split == TRAIN else 0)
            print_judgements(f"preferences.{split}", rows, section.sequence_length if section else 0, out)


def _fewer(chat: Chat) -> Chat:
    """The section with at most MOST conversations of each source."""

    def limited(part: ChatSource) -> ChatSource:
        return part.model_copy(update={"max_conversations": min(part.max_conversations or MOST, MOST)})

    if chat.sources:
        return chat.model_copy(update={"sources": tuple(map(limited, chat.sources))})
    return limited(chat)


def _tokenizer_before(config: LanguageModelConfig, folder: Path) -> dict[str, Path]:
    """The stage tokenize's input: the run's own tokenizer where there is one, else the pretrained model's alone."""
    from transformers import AutoTokenizer

    from pipeline.base import PACKAGE

    for name in ("tokenizer", "base"):
        if directory_of(config, name).is_dir():
            return {name: directory_of(config, name)}
    name = config.model.pretrained
    if config.tokenizer and config.tokenizer.pretrained:
        from pipeline.lm.brought import load_brought

        load_brought(config.tokenizer)[0].save_pretrained(folder / "tokenizer")
        return {"tokenizer": folder / "tokenizer"}
    if name is None:
        raise UserError(
            "this recipe trains a tokenizer, and has not yet\nway out: headwater stage tokenizer RECIPE"
        )
    if name.startswith(PACKAGE):
        raise UserError(f"the tokenizer is inside {name}\nway out: headwater stage base RECIPE")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=config.model.revision)
    except (OSError, ValueError) as error:
        raise UserError(f"model.pretrained {name}: {' '.join(str(error).split())[:200]}") from None
    tokenizer.save_pretrained(folder / "base" / "model")
    if (config_file := Path(name) / "config.json").is_file():
        shutil.copy(config_file, folder / "base" / "model")
    return {"base": folder / "base"}


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("tokenize")
