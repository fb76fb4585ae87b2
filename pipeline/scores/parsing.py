"""The share of functions begun by held-out code and written on by the model that are Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.data.functions import Function, accepted, choose, is_over
from pipeline.lm.decoding import sample_batch
from pipeline.lm.prompts import document_prompt
from pipeline.run.results import Score
from pipeline.run.terminal import bar
from pipeline.scores.intervals import wilson_interval
from pipeline.scores.score import BASE, REFERENCE, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

NAME = "parsed functions"
TOKENS = 96  # written after a header at most; less where that would be more than half the window
CHARACTERS_A_TOKEN = 32  # more than any stretch of code needs: bounds what is encoded of a long document
TEMPERATURE, TOP_P = 0.8, 0.95


def prompt_of(tokenizer: PreTrainedTokenizerFast, function: Function, room: int) -> list[int]:
    """The last `room` tokens of the document up to the header's end, from its opening token on where there is room."""
    text = (function.before + function.header)[-room * CHARACTERS_A_TOKEN :]
    return document_prompt(tokenizer, text)[-room:]


def real_body(tokenizer: PreTrainedTokenizerFast, function: Function, tokens: int) -> str:
    """What the document goes on with, `tokens` tokens of it."""
    text = function.after[: tokens * CHARACTERS_A_TOKEN]
    return tokenizer.decode(
        document_prompt(tokenizer, text)[1 : tokens + 1], clean_up_tokenization_spaces=False
    )


def ended_by(tokenizer: PreTrainedTokenizerFast, headers: Sequence[str]) -> Callable[[int, list[int]], bool]:
    """For sample_batch: of each header's function, whether what is written has come to its end."""

    def enough(row: int, ids: list[int]) -> bool:
        text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return is_over(headers[row], text)

    return enough


class ParsedFunctions:
    """Share of sampled function bodies that ast.parse accepts, beside the real bodies cut at the same tokens.

    Only the base model is measured: what is written on is a document, not a conversation.

    Args:
        rows: JSON lines {key, text} of held-out documents.
        count: functions drawn by the seed, from all of them.
    """

    name, models = "functions", (BASE,)

    def __init__(self, rows: list[dict[str, Any]], count: int, settings: Settings) -> None:
        self.settings, self.rows = settings, rows
        self.tokens = min(TOKENS, settings.window // 2)
        self.drawn = choose([row["text"] for row in rows], count, settings.seed_of("functions"))
        self.units = len(self.drawn)
        self.missing = (
            "" if len(self.drawn) == count else f"only {len(self.drawn)} of {count} functions are held out"
        )

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        """What the model wrote, what is accepted of it, and what is accepted of the real bodies."""
        room = self.settings.window - self.tokens
        prompts = [prompt_of(tokenizer, function, room) for _, function in self.drawn]
        seeds = [self.settings.seed_of("sample", index) for index in range(len(prompts))]
        written: list[str] = []
        batches = range(0, len(prompts), self.settings.batch_size)
        for begin in bar(batches, "functions", self.settings.progress):
            part = slice(begin, begin + self.settings.batch_size)
            enough = ended_by(tokenizer, [function.header for _, function in self.drawn[part]])
            ids = sample_batch(
                model, tokenizer, prompts[part], self.tokens, TEMPERATURE, TOP_P, seeds[part], enough
            )
            written += tokenizer.batch_decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        real = [real_body(tokenizer, function, self.tokens) for _, function in self.drawn]
        return {"written": written, "accepted": self._verdicts(written), "reference": self._verdicts(real)}

    def _verdicts(self, bodies: list[str]) -> list[bool]:
        headers = [function.header for _, function in self.drawn]
        return [accepted(header, body) for header, body in zip(headers, bodies, strict=True)]

    def scores(self, measured: dict[str, dict[str, Any]]) -> list[Score]:
        verdicts = measured[BASE]
        return [self._share(BASE, verdicts["accepted"]), self._share(REFERENCE, verdicts["reference"])]

    def _share(self, model: str, verdicts: list[bool]) -> Score:
        return Score(
            name=NAME,
            model=model,
            value=sum(verdicts) / len(verdicts),
            interval=wilson_interval(sum(verdicts), len(verdicts)),
            unit="share",
            count=len(verdicts),
            protocol=self._protocol(model),
            better="higher",
        )

    def detail(self) -> dict[str, Any]:
        return {
            "keys": [self.rows[index]["key"] for index, _ in self.drawn],
            "headers": [function.header for _, function in self.drawn],
        }

    def _protocol(self, model: str) -> str:
        sampled = f"sampled at temperature {TEMPERATURE}, top_p {TOP_P}"
        body = sampled if model == BASE else "the real text that follows"
        room = self.settings.window - self.tokens
        return (
            f"functions of held-out documents after the last {room} tokens up to the end of the header; "
            f"body: at most {self.tokens} tokens, {body}, cut where the indentation returns to the header's; share "
            "that ast.parse accepts; Wilson interval"
        )
