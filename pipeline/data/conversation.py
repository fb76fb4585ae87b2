"""What is read of a source: documents and conversations, each under the key that decides whether it is held out."""

from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]


@dataclass(frozen=True)
class Document:
    """A text, and the key that names it in its corpus and decides whether it is held out."""

    key: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """Messages and tools as transformers' chat templates read them; the key is as a document's.

    messages: `role` and `content`; an assistant's may have `tool_calls` and `reasoning_content`; one with
        `train: False` is not taught. text: in their place a document, every token of which is taught.
    """

    key: str
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    text: str = ""
