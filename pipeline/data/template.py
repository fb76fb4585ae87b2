"""A tokenizer's chat template: what it can write, and where in what it writes each answer stands.

An answer's place is found by rendering, never by comparing ids: what follows the generation prompt, up to and with the
stop token. Where a template writes an earlier turn differently once others follow, each answer gets the rendering that
generation would have seen. Strings of the user that look like control tokens are masked while the template runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cached_property
from os.path import commonprefix
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Message = dict[str, Any]
Span = tuple[int, int]
Taught = Literal["assistant", "last_assistant", "completion", "all"]

OPEN, CLOSE = (
    "\ue000",
    "\ue001",
)  # private use: no control token, and nothing that a template trims or escapes
MASKED = re.compile(f"{OPEN}(\\d+){CLOSE}")
PROBE = "zqprobe"  # a word that no template contains
CALL = {
    "type": "function",
    "id": "call00000",
    "function": {"name": f"{PROBE}name", "arguments": {PROBE: "x"}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": f"{PROBE}name",
        "description": f"{PROBE}does",
        "parameters": {"type": "object", "properties": {PROBE: {"type": "string", "description": "x"}}},
    },
}
USER, ANSWER = {"role": "user", "content": "x"}, {"role": "assistant", "content": PROBE}


class Rendered(NamedTuple):
    """A row as text: `spans` of characters are supervised. Masks stand for what looked like a control token."""

    text: str
    spans: tuple[Span, ...]


class ChatTemplate:
    """Renders conversations and finds their answers.

    Args:
        unwritten: what becomes of tools and thinking that the template has no place for: refused, or left out.

    Raises:
        UserError: there is no template, or it writes no contents.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, unwritten: Literal["error", "drop"] = "error"
    ) -> None:
        if tokenizer.chat_template is None:
            raise UserError(
                f"the tokenizer {tokenizer.name_or_path} has no chat template\n"
                "expected: chat_template.jinja beside tokenizer.json, or `chat_template` in tokenizer_config.json"
            )
        self.tokenizer, self.unwritten = tokenizer, unwritten
        specials = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._specials = [OPEN, *sorted(specials, key=len, reverse=True)]
        self._special = re.compile("|".join(map(re.escape, self._specials)))
        self.control = re.compile(control_pattern(tokenizer))
        self.notes: dict[str, int] = {}  # what was done otherwise than one might expect, and how often

    # What the template can write, asked of it once.

    @cached_property
    def _parts(self) -> bool:
        """Whether contents must be lists of parts, as vision models' templates want them."""
        for parts in (False, True):
            if PROBE in (self._tried(in_parts([USER, ANSWER]) if parts else [USER, ANSWER]) or ""):
                return parts
        raise UserError(
            f"the chat template of {self.tokenizer.name_or_path} writes no contents of an assistant\n"
            f"it says: {self._refusal([USER, ANSWER])}"
        )

    @cached_property
    def _takes_system(self) -> bool:
        system = {"role": "system", "content": PROBE}
        return PROBE in (self._tried(self._shaped([system, USER])) or "")

    @cached_property
    def writes_tools(self) -> bool:
        return f"{PROBE}does" in (self._tried(self._shaped([USER]), (TOOL,)) or "")

    @cached_property
    def writes_thinking(self) -> bool:
        thought = {"role": "assistant", "content": "x", "reasoning_content": PROBE}
        return PROBE in (self._tried(self._shaped([USER, thought])) or "")

    @cached_property
    def _call_style(self) -> tuple[Any, Callable[[dict], Any]] | None:
        """A call's content where it has none, and its arguments' form, as the template takes them; None: as in none."""
        for form in (_same, _as_json):
            for content in ("", None):
                call = {**CALL, "function": {**CALL["function"], "arguments": form({PROBE: "x"})}}
                asked = {"role": "assistant", "content": content, "tool_calls": [call]}
                found = self._tried(self._shaped([USER, asked]), (TOOL,)) or ""
                # Python's own quotes mean that the template puts the arguments in as they are: it wants JSON text.
                if found.count(f"{PROBE}name") > self._offered and f"{{'{PROBE}'" not in found:
                    return content, form
        return None

    @cached_property
    def _offered(self) -> int:
        return (self._tried(self._shaped([USER]), (TOOL,)) or "").count(f"{PROBE}name")

    @cached_property
    def _closing(self) -> str:
        """What the template writes behind an answer that ends a conversation."""
        return self._render(self._shaped([USER, ANSWER])).rpartition(PROBE)[2] + self._follower

    @cached_property
    def _stop_end(self) -> int:
        """Where in `_closing` the stop token ends; 0: nowhere.

        It is the last control token that is there whether or not another turn follows; where a template ends the last
        answer by a token of its own, that one.
        """
        further = self._tried(self._shaped([USER, ANSWER, USER])) or ""
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
        if self._call_style is None:
            return ""
        nothing, form = self._call_style
        call = {**CALL, "function": {**CALL["function"], "arguments": form({PROBE: "x"})}}
        result = {"role": "tool", "name": f"{PROBE}name", "tool_call_id": CALL["id"], "content": "x"}
        return self._following({"role": "assistant", "content": nothing, "tool_calls": [call]}, result)

    def _following(self, answer: Message, turn: Message) -> str:
        """Where the template ends `answer` with nothing: the next turn's first control token, at which models stop."""
        asked = self._shaped([USER, answer, turn])
        ended = self._tried(asked[:2]) or ""
        if self.control.search(ended, max(ended.rfind(PROBE), 0)):
            return ""
        further = self._tried(asked) or ""
        found = self.control.search(further, len(ended)) if further.startswith(ended) else None
        return further[len(ended) : found.end()] if found else ""

    # A conversation to rows.

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
        answers = taught_answers(messages, taught)
        written, shift = self._as_written(messages)
        tools = self._tools(tools)
        if taught == "all":
            text = self._render(written, tools)
            self._require(messages, text, text)
            return [Rendered(text, ((0, len(text)),))]
        rows: list[Rendered] = []
        for index in reversed(answers):
            text, spans = self._answer(written, index - shift, tools, messages[index])
            fits = [row for row in rows if row.text.startswith(text[: spans[-1][1]])]
            if fits:
                place = rows.index(fits[0])
                rows[place] = Rendered(fits[0].text, (*spans, *fits[0].spans))
            else:
                rows.append(Rendered(text, spans))
        return rows[::-1]

    def prompt(self, messages: list[Message], tools: tuple[dict, ...] = ()) -> str:
        """What generation is prompted with, masked as rows are."""
        return self._render(self._as_written(messages)[0], self._tools(tools), add_generation_prompt=True)

    def unmasked(self, text: str) -> str:
        return MASKED.sub(lambda found: self._specials[int(found[1])], text)

    def _answer(
        self, messages: list[Message], index: int, tools: tuple[dict, ...], given: Message
    ) -> tuple[str, tuple[Span, ...]]:
        """The rendering that ends with answer `index`, and what of it is taught."""
        before = messages[:index]
        text = self._render([*before, messages[index]], tools)
        text += self._call_follower if messages[index].get("tool_calls") else self._follower
        prompt = self._render(before, tools, add_generation_prompt=True)
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
        probed = self._render([*before, *self._shaped([ANSWER])], tools)
        begin = len(commonprefix([prompt, probed, text]))
        history = len(commonprefix([prompt, self._render(before, tools)])) if before else 0
        if begin < history:
            raise UserError(
                "the chat template renders the turns before an answer differently once the answer follows\n"
                f"roles: {_roles(before)}, assistant\n"
                "expected: a rendering that only grows, so that training sees what generation is prompted with"
            )
        self._note(f"generation is prompted with {prompt[begin:]!r}, which answers do not follow")
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
        if not re.search(r"\{%-?\s*generation\s*-?%\}", self._source(tools)):
            return []
        _, marks = self._rendered([*before, answer], tools, return_assistant_tokens_mask=True)
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
            content = self._mask(message.get("content") or "").rpartition("</think>")[2].strip()
            if content not in answer:
                raise UserError(
                    "the chat template alters the contents of messages: the assistant's words cannot be located\n"
                    f"content: {content[:60]!r}; it writes: {self.unmasked(answer)[:80]!r}\n"
                    "expected: a template that writes contents as they are, or trimmed"
                )
            for call in message.get("tool_calls") or ():
                if self._mask(call["function"]["name"]) not in answer:
                    raise UserError(f"the chat template leaves out the call of {call['function']['name']!r}")
            thinking = self._mask(message.get("reasoning_content") or "").strip()
            if thinking and thinking not in answer:
                if self.unwritten == "error":
                    raise UserError(
                        "the chat template has no place for the thinking of this answer\n"
                        "way out: chat.unwritten=drop to leave it out and count it, or a template that writes it"
                    )
                self._note("thinking left out: the template has no place for it")

    # Messages as the template wants them.

    def _as_written(self, messages: list[Message]) -> tuple[list[Message], int]:
        """Masked messages in the template's form; and by how much indices shift where the system turn is folded."""
        written = [self._message(message) for message in messages]
        if not messages or messages[0]["role"] != "system" or self._takes_system:
            return self._shaped(written), 0
        if len(messages) < 2 or messages[1]["role"] != "user":
            raise UserError(
                "the chat template takes no system message, and no user turn follows to put it into"
            )
        self._note("system turn written into the first user turn: the template has none of its own")
        first = {**written[1], "content": f"{written[0]['content']}\n\n{written[1]['content']}"}
        return self._shaped([first, *written[2:]]), 1

    def _message(self, message: Message) -> Message:
        kept = {key: value for key, value in message.items() if key not in ("train", "weight")}
        kept = self._mask(kept)
        if not kept.get("tool_calls"):
            return kept
        if self._call_style is None:
            raise UserError(
                "the chat template writes no tool calls\nway out: another template, or none of these rows"
            )
        nothing, form = self._call_style
        calls = [
            {**call, "function": {**call["function"], "arguments": form(call["function"]["arguments"])}}
            for call in kept["tool_calls"]
        ]
        return {**kept, "content": kept.get("content") or nothing, "tool_calls": calls}

    def _shaped(self, messages: list[Message]) -> list[Message]:
        return in_parts(messages) if self._parts else messages

    def _tools(self, tools: tuple[dict, ...]) -> tuple[dict, ...]:
        if not tools or self.writes_tools:
            return self._mask(tools)
        if self.unwritten == "error":
            raise UserError(
                "the chat template has no place for tools\n"
                "way out: chat.unwritten=drop to leave them out and count it, or a template that writes them"
            )
        self._note("tools left out: the template has no place for them")
        return ()

    def _mask(self, value: Any) -> Any:
        """`value` with every string in it masked."""
        if isinstance(value, str):
            return self._special.sub(lambda found: f"{OPEN}{self._specials.index(found[0])}{CLOSE}", value)
        if isinstance(value, dict):
            return {key: self._mask(item) for key, item in value.items()}
        return type(value)(map(self._mask, value)) if isinstance(value, list | tuple) else value

    def _note(self, words: str) -> None:
        self.notes[words] = self.notes.get(words, 0) + 1

    # The template itself.

    def _source(self, tools: tuple[dict, ...]) -> str:
        return self.tokenizer.get_chat_template(tools=list(tools) or None)

    def _rendered(
        self, messages: list[Message], tools: tuple[dict, ...], **options: Any
    ) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, marks = render_jinja_template(
            [messages],
            tools=list(tools) or None,
            chat_template=self._source(tools),
            **self.tokenizer.special_tokens_map,
            **options,
        )
        return texts[0], marks[0] if marks else []

    def _render(self, messages: list[Message], tools: tuple[dict, ...] = (), **options: Any) -> str:
        from jinja2 import TemplateError

        try:
            return self._rendered(messages, tools, **options)[0]
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise UserError(
                f"the chat template refuses a conversation of roles ({_roles(messages)}): {error}"
            ) from None

    def _tried(self, messages: list[Message], tools: tuple[dict, ...] = ()) -> str | None:
        """The rendering of a probe, or None where the template refuses it."""
        try:
            return self._render(messages, tools)
        except UserError:
            return None

    def _refusal(self, messages: list[Message]) -> str:
        try:
            return repr(self._render(messages)[:80])
        except UserError as error:
            return str(error)


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
            f"no message is the assistant's and to be taught (roles: {_roles(messages)}): there is nothing to learn"
        )
    return answers


def in_parts(messages: list[Message]) -> list[Message]:
    """Contents as lists of parts of text."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"] or ""}]} for message in messages
    ]


def control_pattern(tokenizer: PreTrainedTokenizerFast) -> str:
    """A pattern for each special token, with the white space that it swallows on either side."""
    special = [token for token in tokenizer.added_tokens_decoder.values() if token.special]
    if not special:
        return "(?!)"  # matches nothing
    longest_first = sorted(special, key=lambda token: len(token.content), reverse=True)
    return "|".join(
        (r"\s*" if token.lstrip else "") + re.escape(token.content) + (r"\s*" if token.rstrip else "")
        for token in longest_first
    )


def _roles(messages: list[Message]) -> str:
    return ", ".join(message["role"] for message in messages)


def _same(arguments: dict) -> dict:
    return arguments


def _as_json(arguments: dict) -> str:
    return json.dumps(arguments, ensure_ascii=False)
