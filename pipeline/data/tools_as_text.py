"""Tools and calls as plain text, for chat templates that have no place of their own for them.

The form is the one that SmolLM2 documents (huggingface.co/HuggingFaceTB/SmolLM2-1.7B-Instruct): tools as JSON between
<tools> and </tools> in the system turn, an answer that calls as a JSON list between <tool_call> and </tool_call>.
"""

import json
from collections.abc import Sequence
from typing import Any

from pipeline.data.conversation import Message

OFFER = (
    "You can call the functions below, each described by a JSON schema.\n"
    "<tools>{tools}</tools>\n\n"
    "Where one of them is needed, answer with this and nothing else:\n"
    '<tool_call>[{{"name": the function, "arguments": {{the arguments by name}}}}]</tool_call>'
)


def tools_as_text(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[Message]:
    """The conversation with its tools in the system turn, its calls in the answers, and results as user turns."""
    written = [_message(message) for message in messages]
    if not tools:
        return written
    offer = OFFER.format(tools=json.dumps([tool["function"] for tool in tools], ensure_ascii=False))
    if written and written[0]["role"] == "system":
        return [{**written[0], "content": f"{written[0]['content']}\n\n{offer}"}, *written[1:]]
    return [{"role": "system", "content": offer}, *written]


def _message(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>{message['content']}</tool_response>"}
    if not message.get("tool_calls"):
        return message
    calls = json.dumps([_call(call["function"]) for call in message["tool_calls"]], ensure_ascii=False)
    kept = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**kept, "content": f"{message.get('content') or ''}<tool_call>{calls}</tool_call>"}


def _call(function: dict[str, Any]) -> dict[str, Any]:
    return {"name": function["name"], "arguments": function["arguments"]}
