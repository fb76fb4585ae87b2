"""Prompts whose answers a reward function judges: rows of tables, and the headers of a module's functions."""

from typing import Any

from pipeline.data.config import Prompts
from pipeline.data.conversation import Prompt
from pipeline.data.formats import listed, with_system
from pipeline.data.functions import functions_of
from pipeline.data.rows import BadRow, Row, brief, require_unicode

LINES_BEFORE = 8  # of a function's header


def asked(source: Prompts, row: Row) -> list[Prompt]:
    """The prompt of a table's row, and its other columns.

    Raises:
        BadRow: it is no text or list of messages, or is empty.
    """
    columns: dict[str, Any] = dict(row.value)
    value = columns.pop(source.prompt_column)
    if source.plain:
        if not isinstance(value, str) or not value:
            raise BadRow(
                f"column {source.prompt_column!r} holds {brief(value)}\nexpected: a text to go on with"
            )
        require_unicode(value)
        return [Prompt(row.key, (), value, columns)]
    if isinstance(value, str):
        require_unicode(value)
        messages = [{"role": "user", "content": value}]
    else:
        messages = listed(source.prompt_column, value)
    messages = with_system(columns, messages)
    columns.pop("system", None)
    if messages[-1]["role"] == "assistant" or not messages[-1]["content"].strip():
        raise BadRow(
            f"the prompt ends with {brief(messages[-1]['content'])} of the {messages[-1]['role']}\n"
            "expected: words that an assistant can answer"
        )
    return [Prompt(row.key, tuple(messages), "", columns)]


def after_headers(key: str, text: str) -> list[Prompt]:
    """The functions of a module: the lines before each and its header, to be gone on with; `header` is a column."""
    found = []
    for number, function in enumerate(functions_of(text)):
        before = function.before.splitlines(keepends=True)[-LINES_BEFORE:]
        found.append(
            Prompt(f"{key}::{number}", (), "".join(before) + function.header, {"header": function.header})
        )
    return found
