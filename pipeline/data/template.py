"""A tokenizer's chat template: what it can write, and conversations in the form that it takes.

Strings of the user that look like control tokens are masked while the template runs, so that what it writes can be told
from what they say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline.data.config import Unwritten
from pipeline.data.tools_as_text import tools_as_text
from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Message = dict[str, Any]
Span = tuple[int, int]

OPEN, CLOSE = (
    "\ue000",
    "\ue001",
)  # private use: no control token, and nothing that a template trims or escapes
PICTURE = "\ue002"  # private use too: where in a content a picture stands
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
AS_TEXT = "tools and calls written as text"
USER, ANSWER = {"role": "user", "content": "x"}, {"role": "assistant", "content": PROBE}


class Template:
    """Writes conversations as a tokenizer's chat template does.

    notes: what was done otherwise than one might expect, in words, and how often.

    Args:
        unwritten: what becomes of tools and thinking that the template has no place for: refused, or left out; `text`:
            tools and calls are written as tools_as_text has them, thinking is refused.

    Raises:
        UserError: there is no template, or it writes no contents.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, unwritten: Unwritten = "error") -> None:
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
        self.notes: dict[str, int] = {}

    # What the template can write, asked of it once.

    @cached_property
    def _parts(self) -> bool:
        """Whether contents must be lists of parts, as vision models' templates want them."""
        for parts in (False, True):
            if PROBE in (self.tried(in_parts([USER, ANSWER]) if parts else [USER, ANSWER]) or ""):
                return parts
        raise UserError(
            f"the chat template of {self.tokenizer.name_or_path} writes no contents of an assistant\n"
            f"it says: {self._refusal([USER, ANSWER])}"
        )

    @cached_property
    def _takes_system(self) -> bool:
        system = {"role": "system", "content": PROBE}
        return PROBE in (self.tried(self.shaped([system, USER])) or "")

    @cached_property
    def writes_tools(self) -> bool:
        return f"{PROBE}does" in (self.tried(self.shaped([USER]), (TOOL,)) or "")

    @cached_property
    def call_style(self) -> tuple[Any, Callable[[dict], Any]] | None:
        """A call's content where it has none, and its arguments' form, as the template takes them; None: as in none."""
        for form in (_same, _as_json):
            for content in ("", None):
                call = {**CALL, "function": {**CALL["function"], "arguments": form({PROBE: "x"})}}
                asked = {"role": "assistant", "content": content, "tool_calls": [call]}
                found = self.tried(self.shaped([USER, asked]), (TOOL,)) or ""
                # Python's own quotes mean that the template puts the arguments in as they are: it wants JSON text.
                if found.count(f"{PROBE}name") > self._offered and f"{{'{PROBE}'" not in found:
                    return content, form
        return None

    @cached_property
    def _offered(self) -> int:
        return (self.tried(self.shaped([USER]), (TOOL,)) or "").count(f"{PROBE}name")

    # Messages as the template wants them.

    def as_written(self, messages: list[Message]) -> tuple[list[Message], int]:
        """Masked messages in the template's form; and by how much indices shift where the system turn is folded."""
        written = [self._message(message) for message in messages]
        if not messages or messages[0]["role"] != "system" or self._takes_system:
            return self.shaped(written), 0
        if len(messages) < 2 or messages[1]["role"] != "user":
            raise UserError(
                "the chat template takes no system message, and no user turn follows to put it into"
            )
        self.note("system turn written into the first user turn: the template has none of its own")
        first = {**written[1], "content": f"{written[0]['content']}\n\n{written[1]['content']}"}
        return self.shaped([first, *written[2:]]), 1

    def with_tools_as_text(
        self, messages: list[Message], tools: tuple[dict, ...]
    ) -> tuple[list[Message], tuple[dict, ...]]:
        """(messages, tools) as they are, unless the template cannot write them and they are to be text."""
        calls = any(message.get("tool_calls") or message["role"] == "tool" for message in messages)
        if self.unwritten != "text" or not (tools or calls):
            return messages, tools
        if (self.writes_tools or not tools) and (self.call_style or not calls):
            return messages, tools
        self.note(f"{AS_TEXT}: the template has no place for them")
        return tools_as_text(messages, tools), ()

    def _message(self, message: Message) -> Message:
        kept = {key: value for key, value in message.items() if key not in ("train", "weight")}
        kept = self.mask(kept)
        if not kept.get("tool_calls"):
            return kept
        if self.call_style is None:
            raise UserError(
                "the chat template writes no tool calls\n"
                "way out: chat.unwritten=text to write them as text, another template, or none of these rows"
            )
        nothing, form = self.call_style
        calls = [
            {**call, "function": {**call["function"], "arguments": form(call["function"]["arguments"])}}
            for call in kept["tool_calls"]
        ]
        return {**kept, "content": kept.get("content") or nothing, "tool_calls": calls}

    def shaped(self, messages: list[Message]) -> list[Message]:
        pictures = any(PICTURE in (message.get("content") or "") for message in messages)
        return in_parts(messages) if pictures or self._parts else messages

    def place_for(self, tools: tuple[dict, ...]) -> tuple[dict, ...]:
        if not tools or self.writes_tools:
            return self.mask(tools)
        if self.unwritten == "error":
            raise UserError(
                "the chat template has no place for tools\n"
                "way out: chat.unwritten=text to write them as text, chat.unwritten=drop to leave them out and count "
                "it, or a template that writes them"
            )
        self.note("tools left out: the template has no place for them")
        return ()

    def mask(self, value: Any) -> Any:
        """`value` with every string in it masked."""
        if isinstance(value, str):
            return self._special.sub(lambda found: f"{OPEN}{self._specials.index(found[0])}{CLOSE}", value)
        if isinstance(value, dict):
            return {key: self.mask(item) for key, item in value.items()}
        return type(value)(map(self.mask, value)) if isinstance(value, list | tuple) else value

    def unmasked(self, text: str) -> str:
        return MASKED.sub(lambda found: self._specials[int(found[1])], text)

    def note(self, words: str) -> None:
        self.notes[words] = self.notes.get(words, 0) + 1

    # The template itself.

    def source(self, tools: tuple[dict, ...]) -> str:
        return self.tokenizer.get_chat_template(tools=list(tools) or None)

    def rendered(
        self, messages: list[Message], tools: tuple[dict, ...], **options: Any
    ) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, marks = render_jinja_template(
            [messages],
            tools=list(tools) or None,
            chat_template=self.source(tools),
            **self.tokenizer.special_tokens_map,
            **options,
        )
        return texts[0], marks[0] if marks else []

    def render(self, messages: list[Message], tools: tuple[dict, ...] = (), **options: Any) -> str:
        from jinja2 import TemplateError

        try:
            return self.rendered(messages, tools, **options)[0]
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise UserError(
                f"the chat template refuses a conversation of roles ({roles_of(messages)}): {error}"
            ) from None

    def tried(self, messages: list[Message], tools: tuple[dict, ...] = ()) -> str | None:
        """The rendering of a probe, or None where the template refuses it."""
        try:
            return self.render(messages, tools)
        except UserError:
            return None

    def _refusal(self, messages: list[Message]) -> str:
        try:
            return repr(self.render(messages)[:80])
        except UserError as error:
            return str(error)


def in_parts(messages: list[Message]) -> list[Message]:
    """Contents as lists of parts: texts, and pictures where they are marked."""
    return [{**message, "content": _parts_of(message["content"] or "")} for message in messages]


def _parts_of(content: str) -> list[dict[str, str]]:
    if PICTURE not in content:
        return [{"type": "text", "text": content}]
    found: list[dict[str, str]] = []
    for number, text in enumerate(content.split(PICTURE)):
        found += [{"type": "image"}] * (number > 0) + [{"type": "text", "text": text}] * bool(text)
    return found


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


def roles_of(messages: list[Message]) -> str:
    return ", ".join(message["role"] for message in messages)


def _same(arguments: dict) -> dict:
    return arguments


def _as_json(arguments: dict) -> str:
    return json.dumps(arguments, ensure_ascii=False)
