"""Tool calls on held-out conversations: can they be read, do they fit the schema, are they the ones asked for?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline.data.chat import ChatEncoder, Messages
from pipeline.lm.calls import Call, call_of, calls_in, fits, parameters_of
from pipeline.lm.decoding import sample_batch
from pipeline.run.results import Score
from pipeline.run.terminal import bar
from pipeline.scores.intervals import wilson_interval
from pipeline.scores.score import BASE, FINE_TUNED, PREFERRED, REINFORCED, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

ROOM = 1.5  # tokens of an answer at most, over those of the longest right one
VERDICTS = {
    "read": "hold a call as JSON with a name and arguments",
    "valid": "call tools that were offered, with arguments that fit their JSON schemas",
    "right": "make the calls of the held-out answer: the same tools in the same order with equal arguments",
}

class Asked(NamedTuple):
    """A conversation up to an answer that calls tools: its ids, the tools on offer, and the calls that are right.

    length: tokens of the right answer.
    """

    key: str
    prompt: list[int]
    tools: tuple[dict[str, Any], ...]
    calls: list[Call]
    length: int


def _is_schema(parameters: Any) -> bool:
    """Whether it is a JSON schema, whose types are object and number and not dict and float."""
    import jsonschema

    try:
        jsonschema.Draft202012Validator.check_schema(parameters)
    except jsonschema.SchemaError:
        return False
    return isinstance(parameters, dict)


class ToolCalls:
    """What a model answers greedily where the held-out answer calls a tool.

    Args:
        rows: JSON lines {key, messages, tools} of held-out conversations; of each, the first answer that calls counts.
        encoder: with the chat template and the settings of training.
        count: conversations at most.
    """

    name, models = "tool_calls", (BASE, FINE_TUNED, PREFERRED, REINFORCED)

    def __init__(
        self, rows: list[dict[str, Any]], encoder: ChatEncoder, count: int, settings: Settings
    ) -> None:
        self.settings = settings
        # A conversation of which the template rewrites earlier turns stands there once for each of its rows.
        calling = list({row["key"]: row for row in rows if _first_call(row["messages"]) is not None}.values())
        self.held_out = len(calling)
        drawn = np.random.default_rng(settings.seed_of("calls")).permutation(len(calling))
        self.asked: list[Asked] = []
        self.unread = self.long = self.untyped = 0
        for index in drawn if count else ():
            if len(self.asked) == count:
                break
            self._take(calling[index], encoder)
        self.tokens = int(ROOM * max((one.length for one in self.asked), default=0))
        self.units = len(self.asked)
        self.missing = self._missing(count)

    def _take(self, row: dict[str, Any], encoder: ChatEncoder) -> None:
        messages, tools = row["messages"], tuple(row.get("tools", ()))
        place = _first_call(messages)
        layout = encoder.lay_out(_one_answer(messages, place), tools)[-1]
        answer = "".join(piece.answer for piece in layout.pieces)
        length = int(np.count_nonzero(encoder.encode([layout]).targets))
        prompt = encoder.prompt_ids(messages[:place], tools)
        right = [call for one in messages[place]["tool_calls"] if (call := call_of(one))]
        if not all(_is_schema(parameters_of(tool)) for tool in tools):
            self.untyped += 1
        elif calls_in(answer) != right:
            self.unread += 1
        elif len(prompt) + ROOM * length > self.settings.window:
            self.long += 1
        else:
            self.asked.append(Asked(row["key"], prompt, tools, right, length))

    def _missing(self, count: int) -> str:
        if self.units == min(count, self.held_out):
            return (
                "" if self.units == count else f"only {self.units} of {count} answers that call are held out"
            )
        return (
            f"{self.units} of {count} answers are asked for: {self.long} have prompts too long for the window of "
            f"{self.settings.window}, {self.unread} calls the template writes as no JSON, and {self.untyped} come with "
            "tools whose parameters are no JSON schema"
        )

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        """What the model wrote, and of each answer whether it can be read, is valid, and is right."""
        step = self.settings.batch_size
        written: list[str] = []
        batches = range(0, self.units, step)
        for begin in bar(batches, "tool calls", self.settings.progress):
            part = self.asked[begin : begin + step]
            prompts = [one.prompt for one in part]
            ids = sample_batch(model, tokenizer, prompts, self.tokens, None, 1.0, [0] * len(part))
            written += tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False)
        found = [calls_in(text) for text in written]
        pairs = list(zip(found, self.asked, strict=True))
        valid = [bool(calls) and all(fits(call, asked.tools) for call in calls) for calls, asked in pairs]
        right = [calls == asked.calls for calls, asked in pairs]
        return {"written": written, "read": [bool(calls) for calls in found], "valid": valid, "right": right}

    def scores(self, measured: dict[str, dict[str, Any]]) -> list[Score]:
        return [
            Score(
                name=f"tool calls {verdict}",
                model=model,
                value=sum(found[verdict]) / self.units,
                interval=wilson_interval(sum(found[verdict]), self.units),
                unit="share",
                count=self.units,
                protocol=self._protocol(meaning),
                better="higher",
            )
            for verdict, meaning in reversed(VERDICTS.items())
            for model, found in measured.items()
        ]

    def detail(self) -> dict[str, Any]:
        return {"keys": [one.key for one in self.asked], "calls": [one.calls for one in self.asked]}

    def _protocol(self, meaning: str) -> str:
        return (
            f"share of greedy answers, {self.tokens} tokens at most, that {meaning}; where held-out conversations call "
            f"a tool for the first time, prompted as training renders them; {self.settings.precision}; Wilson interval"
        )


def _first_call(messages: Messages) -> int | None:
    return next((place for place, message in enumerate(messages) if message.get("tool_calls")), None)


def _one_answer(messages: Messages, place: int) -> Messages:
    """The conversation up to and with the answer at `place`, which alone is taught."""
    before = [m | {"train": False} if m["role"] == "assistant" else m for m in messages[:place]]
    return [*before, {key: value for key, value in messages[place].items() if key not in ("train", "weight")}]
