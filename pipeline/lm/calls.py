"""Tool calls: read from what a model wrote, held against the schemas on offer, made on functions of a Python file."""

from __future__ import annotations

import inspect
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.run.errors import UserError

Call = dict[str, Any]  # {"name", "arguments"}


def calls_in(text: str) -> list[Call]:
    """The calls in what a model wrote: JSON objects with a name and arguments, alone or in lists, whatever is around.

    `parameters` stands for arguments, too; arguments may be JSON text of an object.
    """
    decoder, found, place = json.JSONDecoder(), [], 0
    while 0 <= (place := _next_json(text, place)):
        try:
            value, place = decoder.raw_decode(text, place)
        except (json.JSONDecodeError, RecursionError):
            place += 1
            continue
        found += [call for one in (value if isinstance(value, list) else [value]) if (call := call_of(one))]
    return found


def _next_json(text: str, place: int) -> int:
    return min((at for at in (text.find("{", place), text.find("[", place)) if at >= 0), default=-1)


def call_of(value: Any) -> Call | None:
    if not isinstance(value, dict):
        return None
    value = value["function"] if isinstance(value.get("function"), dict) else value
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (json.JSONDecodeError, RecursionError):
            return None
    named = isinstance(value.get("name"), str) and isinstance(arguments, dict)
    return {"name": value["name"], "arguments": arguments} if named else None


def fits(call: Call, tools: tuple[dict[str, Any], ...]) -> bool:
    """Whether the tool was offered, and takes such arguments: none it does not name, all that it requires."""
    import jsonschema

    offered = {tool["function"]["name"]: parameters_of(tool) for tool in tools}
    if call["name"] not in offered:
        return False
    own = offered[call["name"]]
    named_alone = {"additionalProperties": False} if "properties" in own else {}
    return jsonschema.Draft202012Validator(named_alone | own).is_valid(call["arguments"])


def parameters_of(tool: dict[str, Any]) -> dict[str, Any]:
    return tool["function"].get("parameters") or {}


class Tools:
    """The functions of a Python file that a model may call.

    Every public function that the file itself defines is one; its name, types and docstring are its description.

    Raises:
        UserError: no file, one that cannot be run, no function in it, or one that its docstring does not describe.
    """

    def __init__(self, path: Path) -> None:
        from transformers.utils import get_json_schema

        try:
            found = runpy.run_path(str(path))
        except OSError as error:
            raise UserError(f"--tools: {path}: {error.strerror}\nexpected: a Python file with functions") from None
        except Exception as error:  # whatever the file does
            raise UserError(f"--tools: {path} cannot be run: {type(error).__name__}: {error}") from None
        self.functions: dict[str, Callable[..., Any]] = {
            name: value
            for name, value in found.items()
            if inspect.isfunction(value) and value.__code__.co_filename == str(path) and not name.startswith("_")
        }
        if not self.functions:
            raise UserError(f"--tools: {path} defines no function whose name begins without _")
        schemas = []
        for name, function in self.functions.items():
            try:
                schemas.append(get_json_schema(function))
            except Exception as error:  # transformers has exceptions of its own for this
                why = " ".join(str(error).split())[:200]
                raise UserError(
                    f"--tools: {path}: {name} cannot be described to a model: {why}\n"
                    "expected: a docstring with a line for each argument below Args:, and types of all of them"
                ) from None
        self.schemas = tuple(schemas)

    def result(self, call: Call) -> str:
        """What the function gives, as text; of a call that cannot be made, what is wrong with it."""
        if call["name"] not in self.functions:
            return f"error: there is no tool {call['name']}, only {', '.join(self.functions)}"
        if not fits(call, self.schemas):
            return f"error: {call['name']} takes other arguments: {json.dumps(parameters_of(self._schema(call)))}"
        try:
            given = self.functions[call["name"]](**call["arguments"])
        except Exception as error:  # a tool's failure is news for the model, and no end of the conversation
            return f"error: {type(error).__name__}: {error}"
        return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False, default=str)

    def _schema(self, call: Call) -> dict[str, Any]:
        return next(schema for schema in self.schemas if schema["function"]["name"] == call["name"])
