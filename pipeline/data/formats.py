"""Rows of chat data in the shapes that people keep them in, to the one shape that chat templates read.

A shape is known by its columns, in this order:
    messages           `messages` or `conversations`: a list of {role, content}, or ShareGPT's {from, value}
    prompt_completion  `prompt` and `completion`, each a text or a list of messages; also question and answer
    alpaca             `instruction`, perhaps `input`, and `output`; perhaps `history`
    text               `text`: a document, every token of which is taught
"""

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

from pipeline.data.config import ChatSource
from pipeline.data.conversation import Conversation, Message
from pipeline.data.rows import BadRow, Row, brief, require_unicode
from pipeline.run.errors import nearest

Columns = dict[str, Any]

MESSAGES = 'a list of messages such as {"role": "user", "content": "..."}'
MESSAGE_COLUMNS = ("messages", "conversations", "conversation")
PROMPTS, COMPLETIONS = ("prompt", "question", "query"), ("completion", "response", "answer")
OUTPUTS = ("output", "response")
BESIDE = ("system", "tools", "input", "history")
KNOWN = dict.fromkeys((*MESSAGE_COLUMNS, *PROMPTS, *COMPLETIONS, "instruction", *OUTPUTS, "text", *BESIDE))
ROLES = {role: role for role in ("system", "user", "assistant", "tool")} | {
    "developer": "system",
    "human": "user",
    **dict.fromkeys(["gpt", "bot", "model", "chatgpt", "function_call"], "assistant"),
    **dict.fromkeys(["function", "ipython", "observation", "tool_response"], "tool"),
}
THINKING = ("reasoning_content", "thinking", "reasoning")
EXPECTED = (
    "expected: columns such as messages; prompt and completion; instruction and output; text\n"
    "way out: chat.messages_column=NAME for messages under another name"
)


class Formats:
    """Parses rows of one section: the first one decides the format where it is `auto`, and the others must have it."""

    def __init__(self, chat: ChatSource) -> None:
        self.chat = chat
        self.format = None if chat.format == "auto" else chat.format

    def __call__(self, chat: ChatSource, row: Row) -> Iterable[Conversation]:
        columns = {name: value for name, value in row.value.items() if value is not None}
        found = self.format or detected(chat, columns)
        parsed = PARSERS[found](chat, columns)
        self.format = found
        return [Conversation(row.key, *parsed)]


def detected(chat: ChatSource, columns: Iterable[str]) -> str:
    """The format that these columns make.

    Raises:
        BadRow: none.
    """
    have = set(columns)
    if chat.messages_column in have or (chat.messages_column is None and have & set(MESSAGE_COLUMNS)):
        return "messages"
    if chat.messages_column is not None:
        raise BadRow(f"no column {chat.messages_column!r}\n{nearest(chat.messages_column, have)[:300]}")
    if have & set(PROMPTS) and have & set(COMPLETIONS):
        return "prompt_completion"
    if "instruction" in have and have & set(OUTPUTS):
        return "alpaca"
    if "text" in have:
        return "text"
    raise BadRow(f"the columns {', '.join(sorted(have)) or '(none)'} make no known chat format\n{EXPECTED}")


# Parsers: {column: value} -> (messages, tools, text) of a Conversation. Raise BadRow.

Parsed = tuple[tuple[Message, ...], tuple[dict, ...], str]


def _messages(chat: ChatSource, columns: Columns) -> Parsed:
    names = (chat.messages_column,) if chat.messages_column else MESSAGE_COLUMNS
    name = _first(columns, names, "messages")
    found = listed(name, columns[name])
    return checked(with_system(columns, found)), tools_of(columns), ""


def _prompt_completion(chat: ChatSource, columns: Columns) -> Parsed:
    asked, answered = (
        _first(columns, PROMPTS, "prompt_completion"),
        _first(columns, COMPLETIONS, "prompt_completion"),
    )
    prompt, completion = columns[asked], columns[answered]
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else listed(asked, prompt)
    after = (
        [{"role": "assistant", "content": completion}]
        if isinstance(completion, str)
        else listed(answered, completion)
    )
    # The completion alone is taught: answers within the prompt were given before.
    before = [
        {**message, "train": False} if message["role"] == "assistant" else message for message in before
    ]
    return checked(with_system(columns, [*before, *after])), tools_of(columns), ""


def _alpaca(chat: ChatSource, columns: Columns) -> Parsed:
    if "instruction" not in columns:
        raise BadRow(f"no column 'instruction'\n{EXPECTED}")
    output = columns[_first(columns, OUTPUTS, "alpaca")]
    asked = [part for part in (columns["instruction"], columns.get("input")) if part]
    if not all(isinstance(part, str) for part in (*asked, output)):
        raise BadRow(f"instruction, input and output hold {brief([*asked, output])}\nexpected: texts")
    earlier: list[Message] = []
    for pair in columns.get("history") or ():
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadRow(f"history holds {brief(pair)}\nexpected: pairs of an instruction and its output")
        earlier += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    turns = [{"role": "user", "content": "\n\n".join(asked)}, {"role": "assistant", "content": output}]
    return checked(with_system(columns, [*earlier, *turns])), tools_of(columns), ""


def _text(chat: ChatSource, columns: Columns) -> Parsed:
    text = columns.get("text")
    if not isinstance(text, str) or not text.strip():
        raise BadRow(f"column 'text' holds {brief(text)}\nexpected: text that is not empty")
    require_unicode(text)
    return (), (), text


PARSERS: dict[str, Callable[[ChatSource, Columns], Parsed]] = {
    "messages": _messages,
    "sharegpt": _messages,
    "prompt_completion": _prompt_completion,
    "alpaca": _alpaca,
    "text": _text,
}


def _first(columns: Columns, names: Iterable[str], format: str) -> str:
    for name in names:
        if name in columns:
            return name
    raise BadRow(
        f"no column {' or '.join(map(repr, names))}, which {format} rows have\n"
        f"it has: {', '.join(sorted(columns)) or 'none'}; one section has rows of one format"
    )


def listed(name: str, value: Any) -> list[Message]:
    """A list of messages, or JSON text of one, each under plain names."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _json(f"column {name!r}", value)
    if not isinstance(value, list) or not value:
        raise BadRow(f"column {name!r} holds {brief(value)}\nexpected: {MESSAGES}")
    return [_message(number, message) for number, message in enumerate(value)]


def _message(number: int, message: Any) -> Message:
    """Role, content and what templates read beside them; what else a table keeps is left out."""
    if not isinstance(message, dict):
        raise BadRow(f"message {number} is {brief(message)}\nexpected: {MESSAGES}")
    message = {name: value for name, value in message.items() if value is not None}
    named = message.get("role", message.get("from"))
    calls = message.get("tool_calls") or ([message["function_call"]] if "function_call" in message else [])
    if named is None or not ({"content", "value"} & message.keys() or calls):
        raise BadRow(f"message {number} is {brief(message)}\nexpected: {MESSAGES}")
    if named not in ROLES:
        raise BadRow(f"message {number} has the role {brief(named)}\n{nearest(str(named), ROLES)}")
    content = _content(number, message.get("content", message.get("value", "")))
    if named == "function_call":
        calls, content = _json(f"message {number}", content), ""
        calls = calls if isinstance(calls, list) else [calls]
    found: Message = {"role": ROLES[named], "content": content}
    if calls:
        found["tool_calls"] = [_call(number, call) for call in calls]
    thinking = next((message[name] for name in THINKING if message.get(name)), None)
    if thinking is not None:
        found["reasoning_content"] = _content(number, thinking)
    found |= {name: message[name] for name in ("name", "tool_call_id", "train") if name in message}
    if "weight" in message:
        weight = message["weight"]
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise BadRow(f"message {number} has weight: {brief(weight)}\nexpected: a number of at least 0")
        found |= {"weight": float(weight)} if weight else {"train": False}
    if not isinstance(found.get("train", True), bool):
        raise BadRow(f"message {number} has train: {brief(found['train'])}\nexpected: true or false")
    return found


def _content(number: int, content: Any) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(content, list):
        others = [
            part for part in content if not (isinstance(part, dict) and isinstance(part.get("text"), str))
        ]
        if others:
            raise BadRow(
                f"message {number} has the part {brief(others[0])}\nexpected: parts of type text alone"
            )
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise BadRow(f"message {number} has the content {brief(content)}\nexpected: text")
    require_unicode(content)
    return content


def _call(number: int, call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow(
            f"message {number} has the call {brief(call)}\nexpected: a function's name and arguments"
        )
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _json(f"message {number}: the arguments of {function['name']}", arguments or "{}")
    if not isinstance(arguments, dict):
        raise BadRow(
            f"message {number} calls {function['name']} with {brief(arguments)}\nexpected: arguments by name"
        )
    made = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {**made, "id": call["id"]} if call.get("id") else made


def tools_of(columns: Columns) -> tuple[dict[str, Any], ...]:
    tools = columns.get("tools") or ()
    if isinstance(tools, str):
        tools = _json("column 'tools'", tools)
    if not isinstance(tools, list | tuple):
        raise BadRow(
            f"column 'tools' holds {brief(tools)}\nexpected: a list of functions, or JSON text of one"
        )
    found = []
    for tool in tools:
        tool = _json("a tool", tool) if isinstance(tool, str) else tool
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow(
                f"column 'tools' holds {brief(tool)}\nexpected: a function with a name and parameters"
            )
        found.append({"type": "function", "function": function})
    return tuple(found)


def with_system(columns: Columns, messages: list[Message]) -> list[Message]:
    system = columns.get("system")
    if not system:
        return messages
    if not isinstance(system, str):
        raise BadRow(f"column 'system' holds {brief(system)}\nexpected: text")
    if messages[0]["role"] == "system":
        raise BadRow("both a column 'system' and a system message\nexpected: one of them")
    return [{"role": "system", "content": system}, *messages]


def checked(messages: list[Message]) -> tuple[Message, ...]:
    """The messages, if they are in an order that a conversation can have.

    Raises:
        BadRow: a late system message, a result without a call, an empty content, nobody to learn from.
    """
    called = False
    for number, message in enumerate(messages):
        role = message["role"]
        if role == "system" and number:
            raise BadRow(
                f"message {number} is the system's\nexpected: a system message only at the beginning"
            )
        if role in ("system", "user") and not message["content"].strip():
            raise BadRow(f"message {number} has the content an empty text\nexpected: text that is not empty")
        if role == "tool" and not called:
            raise BadRow(
                f"message {number} is a tool's result without a call\nexpected: an assistant's call before"
            )
        called = bool(message.get("tool_calls")) or (called and role == "tool")
    if not any(message["role"] == "assistant" for message in messages):
        raise BadRow("no message is the assistant's\nexpected: at least one, to learn from")
    return tuple(messages)


def _json(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise BadRow(f"{place}: JSON nested too deep: {brief(text)}") from None
    except json.JSONDecodeError as error:
        raise BadRow(f"{place}: no JSON: {error.msg} at column {error.colno}: {brief(text)}") from None
