"""Where in what a chat template writes each answer stands, and the rows that a conversation makes.

An answer's place is found by rendering, never by comparing ids: what follows the generation prompt, up to and with the
stop token. Where a template writes an earlier turn differently once others follow, each answer gets the rendering that
generation would have seen.
"""

from __future__ import annotations

import re
from functools import cached_property
from os.path import commonprefix
from typing import Literal, NamedTuple

from pipeline.data.template import ANSWER, CALL, PROBE, USER, Message, Span, Template, roles_of
from pipeline.run.errors import UserError

Taught = Literal["assistant", "last_assistant", "completion", "all"]


class Rendered(NamedTuple):
    """A row as text: `spans` of characters are supervised. Masks stand for what looked like a control token.

    weights: of each span; () where all are 1.
    """

    text: str
    spans: tuple[Span, ...]
    weights: tuple[float, ...] = ()


class ChatTemplate(Template):
    """A template that knows where its answers begin and end. Raises as Template."""

    @cached_property
    def _closing(self) -> str:
        """What the template writes behind an answer that ends a conversation."""
        return self.render(self.shaped([USER, ANSWER])).rpartition(PROBE)[2] + self._follower

    @cached_property
    def _stop_end(self) -> int:
        """Where in `_closing` the stop token ends; 0: nowhere.

        It is the last control token that is there whether or not another turn follows; where a template ends the last
        answer by a token of its own, that one.
        """
        further = self.tried(self.shaped([USER, ANSWER, USER])) or ""
        shared = commonprefix([self._closing, further.rpartition(PROBE)[2]])
        ends = [found.end() for found in self.control.finditer(shared)]
        return ends[-1] if ends else next((found.end() for found in self.control.finditer(self._closing)), 0)

    @cached_property
    def stop_token(self) -> int | None:
        """The id of the control token that ends a turn of plain words."""
        ends = list(self.control.finditer(self._closing[: self._stop_end]))
        return self.tokenizer.convert_tokens_to_ids(ends[-1].group().strip()) if ends else None

    @cached_property
    def _follower(self) -> str:
        return self._following(ANSWER, USER)

    @cached_property
    def _call_follower(self) -> str:
        if self.call_style is None:
            return ""
        nothing, form = self.call_style
        call = {**CALL, "function": {**CALL["function"], "arguments": form({PROBE: "x"})}}
        result = {"role": "tool", "name": f"{PROBE}name", "tool_call_id": CALL["id"], "content": "x"}
        return self._following({"role": "assistant", "content": nothing, "tool_calls": [call]}, result)

    def _following(self, answer: Message, turn: Message) -> str:
        """Where the template ends `answer` with nothing: the next turn's first control token, at which models stop."""
        asked = self.shaped([USER, answer, turn])
        ended = self.tried(asked[:2]) or ""
        if self.control.search(ended, max(ended.rfind(PROBE), 0)):
            return ""
        further = self.tried(asked) or ""
        found = self.control.search(further, len(ended)) if further.startswith(ended) else None
        return further[len(ended) : found.end()] if found else ""

    def rows(
        self, messages: list[Message], tools: tuple[dict, ...] = (), taught: Taught = "assistant"
    ) -> list[Rendered]:
        """One row, or several where later turns change how the template writes earlier ones.

        messages: with `content`, and what else transformers' templates read (`tool_calls`, `reasoning_content`);
            one with `train: False` is not taught.

        Raises:
            UserError: nothing is taught; the template refuses the conversation, leaves out or alters a part of it,
                writes turns before an answer differently once it follows, or ends an answer without a control token.
        """
        messages, tools = self.with_tools_as_text(messages, tools)
        answers = taught_answers(messages, taught)
        written, shift = self.as_written(messages)
        tools = self.place_for(tools)
        if taught == "all":
            if any({"train", "weight"} & message.keys() for message in messages):
                self.note(
                    "train and weight of messages left out of account: chat.loss=all teaches every token alike"
                )
            text = self.render(written, tools)
            self._require(messages, text, text)
            return [Rendered(text, ((0, len(text)),))]
        rows: list[Rendered] = []
        for index in reversed(answers):
            text, spans = self._answer(written, index - shift, tools, messages[index])
            weights = (messages[index].get("weight", 1.0),) * len(spans)
            begun = text[: spans[-1][1]]
            place = next((place for place, row in enumerate(rows) if row.text.startswith(begun)), None)
            if place is None:
                rows.append(Rendered(text, spans, weights))
            else:
                one = rows[place]
                rows[place] = Rendered(one.text, (*spans, *one.spans), (*weights, *one.weights))
        return [row if set(row.weights) != {1.0} else row._replace(weights=()) for row in rows[::-1]]

    def prompt(self, messages: list[Message], tools: tuple[dict, ...] = ()) -> str:
        """What generation is prompted with, masked as rows are."""
        messages, tools = self.with_tools_as_text(messages, tools)
        return self.render(self.as_written(messages)[0], self.place_for(tools), add_generation_prompt=True)

    def _answer(
        self, messages: list[Message], index: int, tools: tuple[dict, ...], given: Message
    ) -> tuple[str, tuple[Span, ...]]:
        """The rendering that ends with answer `index`, and what of it is taught."""
        before = messages[:index]
        text = self.render([*before, messages[index]], tools)
        text += self._call_follower if messages[index].get("tool_calls") else self._follower
        prompt = self.render(before, tools, add_generation_prompt=True)
        begin = len(prompt) if text.startswith(prompt) else self._divergence(before, prompt, text, tools)
        end = self._stop(text, begin)
        self._require([given], text[begin:end], text)
        marked = [
            (max(first, begin), last) for first, last in self._marks(before, messages[index], tools, begin)
        ]
        return text, self._clipped(text, marked) if marked else ((begin, end),)

    def _divergence(self, before: list[Message], prompt: str, text: str, tools: tuple[dict, ...]) -> int:
        """Where an answer leaves its generation prompt, which ends in words that the template writes there alone.

        Raises:
            UserError: what differs lies before the answer's own turn.
        """
        probed = self.render([*before, *self.shaped([ANSWER])], tools)
        begin = len(commonprefix([prompt, probed, text]))
        history = len(commonprefix([prompt, self.render(before, tools)])) if before else 0
        if begin < history:
            raise UserError(
                "the chat template renders the turns before an answer differently once the answer follows\n"
                f"roles: {roles_of(before)}, assistant\n"
                "expected: a rendering that only grows, so that training sees what generation is prompted with"
            )
        self.note(f"generation is prompted with {prompt[begin:]!r}, which answers do not follow")
        return begin

    def _stop(self, text: str, begin: int) -> int:
        """The end of the answer's stop token; of its last control token, where a call ends unlike words."""
        behind = len(text) - len(self._closing)
        if self._stop_end and text.endswith(self._closing) and behind >= begin:
            return behind + self._stop_end
        ends = [found.end() for found in self.control.finditer(text, begin)]
        if not ends:
            raise UserError(
                "the chat template ends an answer without a control token: generation could not stop\n"
                f"it writes: {self.unmasked(text[begin:])[-80:]!r}"
            )
        return ends[-1]

    def _marks(
        self, before: list[Message], answer: Message, tools: tuple[dict, ...], begin: int
    ) -> list[Span]:
        """What the template itself marks of the answer with `{% generation %}`."""
        if not re.search(r"\{%-?\s*generation\s*-?%\}", self.source(tools)):
            return []
        _, marks = self.rendered([*before, answer], tools, return_assistant_tokens_mask=True)
        return [(first, last) for first, last in marks if last > begin]

    def _clipped(self, text: str, marks: list[Span]) -> tuple[Span, ...]:
        """Marks without what they hold behind their stop token.

        Raises:
            UserError: the last of them ends before a stop token.
        """
        *others, (first, last) = marks
        ends = [found.end() for found in self.control.finditer(text, first, last)]
        if not ends:
            raise UserError(
                "the chat template marks an answer without its stop token: generation could not stop\n"
                "expected: {% generation %} around the token that ends the turn, too"
            )
        return (*others, (first, ends[-1]))

    def _require(self, messages: list[Message], answer: str, text: str) -> None:
        """Refuse what the template left out or altered of an answer, and of what stands before it."""
        for message in messages:
            if message["role"] != "assistant":
                continue
            content = self.mask(message.get("content") or "").rpartition("</think>")[2].strip()
            if content not in answer:
                raise UserError(
                    "the chat template alters the contents of messages: the assistant's words cannot be located\n"
                    f"content: {content[:60]!r}; it writes: {self.unmasked(answer)[:80]!r}\n"
                    "expected: a template that writes contents as they are, or trimmed"
                )
            for call in message.get("tool_calls") or ():
                if self.mask(call["function"]["name"]) not in answer:
                    raise UserError(f"the chat template leaves out the call of {call['function']['name']!r}")
            thinking = self.mask(message.get("reasoning_content") or "").strip()
            if thinking and thinking not in answer:
                if self.unwritten == "error":
                    raise UserError(
                        "the chat template has no place for the thinking of this answer\n"
                        "way out: chat.unwritten=drop to leave it out and count it, or a template that writes it"
                    )
                self.note("thinking left out: the template has no place for it")


def taught_answers(messages: list[Message], taught: Taught) -> list[int]:
    """The assistant's messages that are learnt, by index.

    Raises:
        UserError: there is none.
    """
    answers = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    if taught == "last_assistant":
        answers = answers[-1:]
    if taught == "completion":
        answers = [index for index in answers if not users or index > users[-1]]
    answers = [index for index in answers if messages[index].get("train", True)]
    if not answers:
        raise UserError(
            f"no message is the assistant's and to be taught (roles: {roles_of(messages)}): there is nothing to learn"
        )
    return answers
