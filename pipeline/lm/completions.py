"""`headwater generate MODEL --prompts FILE --out FILE`: completions of many prompts, a line each, resumed where cut."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from pipeline.lm.decoding import Limits

KEYS = ("prompt", "messages", "text")


@dataclass(frozen=True)
class Asked:
    """How to complete. temperature: 0: always the likeliest token; samples: of each prompt; stop: what ends one."""

    max_new_tokens: int = 256
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    samples: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0
    batch_size: int = 16

    def limits(self) -> Limits:
        from pipeline.lm.decoding import Limits

        return Limits(self.top_k, self.min_p, self.repetition_penalty)


@dataclass(frozen=True)
class Prompt:
    """A prompt of the file. place: its file and line; row: the line itself; ids: what the model is shown."""

    place: str
    row: dict[str, Any]
    ids: list[int]


def run_generate(model: str, prompts: Path, out: Path, asked: Asked) -> int:
    """Write {prompt's own columns, number, sample, completion, tokens, stopped} for each sample of each prompt.

    Sample s of prompt n owes its draws to (seed, n, s) alone. What `out` already holds, of the same model, prompts and
    settings, is kept; a last line that was cut is made again.

    Returns:
        completions that were made now.

    Raises:
        UserError: no model; a prompt that cannot be read or is too long; `out` was made otherwise.
    """
    from pipeline.lm.directory import directory_of
    from pipeline.lm.model import load_tokenizer, ready

    check_asked(asked)
    rows = read_prompts(prompts)
    directory = directory_of(model)
    told = _told(model, directory, [row for _, row in rows], asked)
    done = _kept(out, told)
    left = {(n, s) for n in range(len(rows)) for s in range(asked.samples)} - done
    if not left:
        return 0
    net, tokenizer = ready(directory), load_tokenizer(directory)
    encoded = [Prompt(place, row, _ids(tokenizer, row, place)) for place, row in rows]
    _check_lengths(net, encoded)
    with open(out, "a", encoding="utf-8") as file:
        if not out.stat().st_size:
            file.write(json.dumps({"headwater": told}) + "\n")
        for line in _completions(net, tokenizer, encoded, sorted(left), asked):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
    return len(left)


def check_asked(asked: Asked) -> None:
    """Raises UserError for a number that makes no sense, by the option's name."""
    for name, fits, expected in (
        ("max_new_tokens", asked.max_new_tokens >= 1, "1 or more"),
        ("temperature", 0 <= asked.temperature < float("inf"), "0 or more"),
        ("top_p", 0 < asked.top_p <= 1, "above 0, at most 1"),
        ("top_k", asked.top_k >= 0, "0 or more"),
        ("min_p", 0 <= asked.min_p < 1, "from 0, below 1"),
        ("repetition_penalty", asked.repetition_penalty > 0, "above 0"),
        ("samples", asked.samples >= 1, "1 or more"),
        ("batch_size", asked.batch_size >= 1, "1 or more"),
    ):
        if not fits:
            raise UserError(f"--{name.replace('_', '-')} {getattr(asked, name)}\nexpected: {expected}")
    if asked.samples > 1 and not asked.temperature:
        raise UserError(f"--samples {asked.samples} with --temperature 0: all would be the same\nway out: --samples 1")
    if "" in asked.stop:
        raise UserError("--stop '' would end every completion before it begins")


def read_prompts(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(FILE:LINE, row) of a file: JSON lines with `prompt`, `messages` or `text`; or plain text, a prompt a line.

    Raises:
        UserError: with the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())[:120]}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = {"prompt": line}
        if path.suffix in (".jsonl", ".json"):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: not JSON: {str(error)[:80]}") from None
        if not isinstance(row, dict) or not any(row.get(key) for key in KEYS):
            raise UserError(f"{path}:{number}: no prompt\nexpected: an object with {' or '.join(KEYS)}")
        rows.append((f"{path}:{number}", row))
    if not rows:
        raise UserError(f"{path} holds no prompt\nexpected: one a line")
    return rows


def _told(model: str, directory: Path, rows: list[dict[str, Any]], asked: Asked) -> dict[str, Any]:
    """What a file of completions says of how it was made; the number of samples and the batch may differ.

    Weights are told apart by size and time of change: hashing them would take longer than many a file of prompts.
    """
    from pipeline.run.files import digest_of_tree

    stats = {file.name: file.stat() for file in sorted(directory.glob("*.safetensors"))}
    made = {"weights": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}, "prompts": rows}
    settings = {key: value for key, value in vars(asked).items() if key not in ("samples", "batch_size")}
    told = {name: digest_of_tree({name: value}) for name, value in made.items()}
    return json.loads(json.dumps({"model": model, **told, **settings}))


def _kept(out: Path, told: dict[str, Any]) -> set[tuple[int, int]]:
    """(prompt, sample) of what is there already; cuts off half a line.

    Raises:
        UserError: it was made otherwise, or is another kind of file.
    """
    if not out.exists() or not out.stat().st_size:
        return set()
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if not whole and content.startswith(b'{"headwater"'):  # cut within its first line
        os.truncate(out, 0)
        return set()
    try:
        first, *lines = [json.loads(line) for line in whole.decode().splitlines()] or [{}]
        before = first["headwater"]
        done = {(line["number"], line["sample"]) for line in lines}
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        raise UserError(f"{out} is there, and holds no completions\nway out: another --out") from None
    from pipeline.run.artifact import differences

    if changed := differences(before, told):
        raise UserError(f"{out} was made otherwise: {'; '.join(changed)[:300]}\nway out: another --out, or delete it")
    if len(whole) != len(content):
        os.truncate(out, len(whole))
    return done


def _ids(tokenizer: PreTrainedTokenizerFast, row: dict[str, Any], place: str) -> list[int]:
    from pipeline.data.chat import ChatEncoder
    from pipeline.lm.prompts import chat_prompt, document_prompt

    if row.get("messages"):
        try:
            return chat_prompt(ChatEncoder(tokenizer), row["messages"])
        except (TypeError, KeyError, AttributeError):
            raise UserError(f"{place}: messages are no list of role and content") from None
    return document_prompt(tokenizer, str(row.get("prompt") or row.get("text")))


def _check_lengths(model: PreTrainedModel, prompts: list[Prompt]) -> None:
    from pipeline.lm.model import positions_of

    limit = positions_of(model.config)
    for prompt in prompts:
        if limit is not None and len(prompt.ids) >= limit:
            raise UserError(
                f"{prompt.place}: {len(prompt.ids)} tokens leave no room in the model's {limit} positions\n"
                "way out: a shorter prompt"
            )


def _completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[Prompt],
    wanted: list[tuple[int, int]],
    asked: Asked,
) -> Iterator[dict[str, Any]]:
    """In batches of prompts of about one length, longest first: what does not fit fails at once."""
    from pipeline.lm.decoding import sample_batch
    from pipeline.lm.prompts import stop_ids
    from pipeline.train.seeds import derived_seed

    wanted = sorted(wanted, key=lambda pair: -len(prompts[pair[0]].ids))
    stops = stop_ids(model, tokenizer)

    def text(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def enough(row: int, ids: list[int]) -> bool:
        so_far = text(ids).rstrip("\ufffd")  # half of a character
        return any(stop in so_far for stop in asked.stop)

    for begin in range(0, len(wanted), asked.batch_size):
        part = wanted[begin : begin + asked.batch_size]
        found = sample_batch(
            model,
            tokenizer,
            [prompts[number].ids for number, _ in part],
            asked.max_new_tokens,
            asked.temperature or None,
            asked.top_p,
            [derived_seed(asked.seed, "completions", number, sample) for number, sample in part],
            enough if asked.stop else None,
            asked.limits(),
        )
        for (number, sample), ids in zip(part, found, strict=True):
            whole = text(ids)
            cut = min((whole.find(stop) for stop in asked.stop if stop in whole), default=len(whole))
            yield {
                **prompts[number].row,
                "number": number,
                "sample": sample,
                "completion": whole[:cut],
                "tokens": len(ids),
                "stopped": ids[-1] in stops or cut < len(whole),
            }


def read_completions(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of completions, in the order of prompts and samples."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    made = (line for line in lines if "headwater" not in line)
    return sorted(made, key=lambda line: (line["number"], line["sample"]))
