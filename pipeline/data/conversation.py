"""What is read of a source: documents, conversations, preferences, each under a key that decides if it is held out."""

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


@dataclass(frozen=True)
class Preference:
    """Answers to one prompt, and which of them are wanted; the key is as a document's.

    prompt, answers, tools: messages and tools as a conversation's; an answer is what follows the prompt.
    verdicts: of each answer, whether it is wanted: (True, False) of a pair, one of a single answer.
    plain: texts without a template: `prompt` and each answer are one message of that content.
    margin: by how much a reward model is to put the first answer above the second, at least.
    """

    key: str
    prompt: tuple[Message, ...]
    answers: tuple[tuple[Message, ...], ...]
    verdicts: tuple[bool, ...]
    tools: tuple[dict[str, Any], ...] = ()
    plain: bool = False
    margin: float = 0.0

    def conversation(self, answer: int) -> tuple[Message, ...]:
        """The prompt with one of its answers, which alone is judged."""
        return (*(_given(message) for message in self.prompt), *self.answers[answer])


def _given(message: Message) -> Message:
    return {**message, "train": False} if message["role"] == "assistant" else message


@dataclass(frozen=True)
class Prompt:
    """What is to be answered or, where it is a text, gone on with; the key is as a document's.

    columns: what the row holds beside it, for the reward function.
    """

    key: str
    messages: tuple[Message, ...]
    text: str
    columns: dict[str, Any]
