"""Lines of held-out documents filled in from what stands before and behind them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.infilling import Marks
from pipeline.lm.decoding import sample_batch
from pipeline.lm.prompts import document_prompt
from pipeline.run.results import Score
from pipeline.run.terminal import bar
from pipeline.scores.intervals import wilson_interval
from pipeline.scores.score import BASE, PRETRAINED, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

NAME = "lines filled in"
TOKENS = 48  # of a line at most
SHORTEST, LONGEST = 10, 100  # characters of a line that is taken out, without its indentation
CHARACTERS_A_TOKEN = 32


class FilledLines:
    """Share of lines that a model writes again, greedily: with both sides, and as a model without marks does, with
    what stands before alone.

    Args:
        rows: JSON lines {key, text}; count: lines, one a document while there are enough.
    """

    name, models = "lines", (PRETRAINED, BASE)

    def __init__(self, rows: list[dict[str, Any]], count: int, marks: Marks, settings: Settings) -> None:
        self.settings, self.marks = settings, marks
        self.cuts = cuts_of([row["text"] for row in rows], count, settings.seed_of("lines"))
        self.units = len(self.cuts)
        self.missing = "" if self.units == count else f"only {self.units} of {count} lines are held out"

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        """What was written in each gap, with both sides where the model knows the marks, and with one."""
        found = {"before": self._written(model, tokenizer, self._before)}
        if max(self.marks) < len(tokenizer):
            found["both"] = self._written(model, tokenizer, self._both)
        return found

    def _written(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: Any) -> list[str]:
        size, written = self.settings.batch_size, []
        text_of = partial(tokenizer.decode, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for begin in bar(range(0, self.units, size), "lines", self.settings.progress):
            prompts = [prompt(tokenizer, *cut) for cut in self.cuts[begin : begin + size]]
            ids = sample_batch(
                model,
                tokenizer,
                prompts,
                TOKENS,
                None,
                1.0,
                [0] * len(prompts),
                lambda _, ids: "\n" in text_of(ids),
            )
            written += tokenizer.batch_decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return written

    def _room(self) -> int:
        return self.settings.window - TOKENS - 4

    def _before(self, tokenizer: PreTrainedTokenizerFast, before: str, line: str, behind: str) -> list[int]:
        return document_prompt(tokenizer, before[-self._room() * CHARACTERS_A_TOKEN :])[-self._room() :]

    def _both(self, tokenizer: PreTrainedTokenizerFast, before: str, line: str, behind: str) -> list[int]:
        """Two thirds of the room for what stands before, one for what stands behind."""
        bos, *first = document_prompt(tokenizer, before[-self._room() * CHARACTERS_A_TOKEN :])
        _, *last = document_prompt(tokenizer, behind[: self._room() * CHARACTERS_A_TOKEN])
        room = self._room()
        first, last = first[-(2 * room // 3) :], last[: room // 3]
        return [bos, self.marks.before, *first, self.marks.behind, *last, self.marks.middle]

    def scores(self, measured: dict[str, dict[str, Any]]) -> list[Score]:
        ways = {"before": "what stands before it alone", "both": "both sides, between the marks"}
        return [
            self._share(model if way == "both" else f"{model}, one side", found[way], said)
            for model, found in measured.items()
            for way, said in ways.items()
            if way in found
        ]

    def _share(self, model: str, written: list[str], said: str) -> Score:
        # With both sides the middle is all that is written; with one, its first line.
        hits = sum(
            text.split("\n")[0].strip() == line.strip()
            for text, (_, line, _) in zip(written, self.cuts, strict=True)
        )
        protocol = (
            f"a line of {SHORTEST} to {LONGEST} characters, greedily from {said}, at most {TOKENS} tokens; the first "
            "line written is the one that was there, but for space around it; Wilson interval"
        )
        return Score(
            NAME,
            model,
            hits / self.units,
            wilson_interval(hits, self.units),
            "share",
            self.units,
            protocol,
            "higher",
        )

    def detail(self) -> dict[str, Any]:
        return {"lines": [line for _, line, _ in self.cuts]}


def cuts_of(texts: list[str], count: int, seed: int) -> list[tuple[str, str, str]]:
    """(before, line, behind) of lines drawn by the seed; the line's indentation stands before it, its end behind."""
    random = np.random.default_rng(seed)
    queues = []
    for text in texts:
        lines = text.splitlines(keepends=True)
        places = [n for n, line in enumerate(lines) if SHORTEST <= len(line.strip()) <= LONGEST and n]
        queues.append((lines, random.permutation(places).tolist()))
    order, found = random.permutation(len(queues)).tolist(), []
    while len(found) < count and any(queue for _, queue in queues):
        for number in order:
            lines, queue = queues[number]
            if queue and len(found) < count:
                place = queue.pop()
                own = lines[place]
                indent = own[: len(own) - len(own.lstrip())]
                line = own.strip()
                behind = own[len(indent) + len(line) :]
                found.append(("".join(lines[:place]) + indent, line, behind + "".join(lines[place + 1 :])))
    return found
