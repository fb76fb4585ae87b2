"""Tool calls made of the standard library: its public functions are tools, and each is asked for with certain values.

A request names its function only by what the docstring says of it, and offers it among others of its module. Values
are made up: a function of the function's name, so that the data is the same wherever the library is the same.
"""

import ast
import json
import random
import re
import warnings
from typing import Any, NamedTuple

from pipeline.data.stdlib import Function, public_functions

Tool = dict[str, Any]

OFFERED = 3  # tools of a request at most
ASKED = 2  # requests a function
ARGUMENTS = 3  # of a call at most, unless more are required
LONGEST_DESCRIPTION = 160  # characters of a docstring's first sentence
TYPES = {bool: "boolean", int: "integer", float: "number"}
ANNOTATED = {"bool": "boolean", "int": "integer", "float": "number", "list": "array", "tuple": "array"}
REQUESTS = (
    "{what} Use {values}.",
    "Please do this: {what} With {values}.",
    "{what} Take {values}.",
    "I want the following done. {what} The settings are {values}.",
    "Given {values}: {what}",
)


class Call(NamedTuple):
    """A request in words, the tools offered with it, and the call that answers it; `name` is unique in its module."""

    name: str
    request: str
    tools: tuple[Tool, ...]
    function: str
    arguments: dict[str, Any]


def calls_of(source: str, module: str) -> list[Call]:
    """The requests that a module's functions make.

    Left out: methods, functions without a docstring or without a parameter that can be named.

    Raises:
        SyntaxError: `source` is not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in the parsed source are no concern of ours
        tree = ast.parse(source)
    functions = {
        function.name: function for owners, function in public_functions(tree.body, ()) if not owners
    }
    tools = {name: tool for name, function in functions.items() if (tool := _tool(function)) is not None}
    said = " ".join(map(_description, functions.values()))
    words = sorted(set(re.findall(r"\b[a-z]{4,12}\b", said))) or ["text"]
    return [_call(module, name, number, tools, words) for name in tools for number in range(ASKED)]


def _tool(function: Function) -> Tool | None:
    """The function as a JSON schema, in the form that chat templates take; None where there is nothing to ask for."""
    description = _description(function)
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    without = [None] * (len(positional) - len(arguments.defaults))
    pairs = [
        *zip(positional, [*without, *arguments.defaults], strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    if not description or not pairs:
        return None
    parameters = {
        "type": "object",
        "properties": {argument.arg: _schema(argument, default) for argument, default in pairs},
        "required": [argument.arg for argument, default in pairs if default is None],
    }
    named = {"name": function.name, "description": description, "parameters": parameters}
    return {"type": "function", "function": named}


def _description(function: Function) -> str:
    """The docstring's first sentence; "" where there is none, or it is too long to be one."""
    words = " ".join((ast.get_docstring(function) or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=[a-z)][.!?]) ", words)[0]
    return sentence if len(sentence) <= LONGEST_DESCRIPTION else ""


def _schema(argument: ast.arg, default: ast.expr | None) -> dict[str, str]:
    """The JSON type that the annotation or the default says; a text where neither does."""
    said = ANNOTATED.get(ast.unparse(argument.annotation).split("[")[0]) if argument.annotation else None
    found = said or _type_of(default)
    return {"type": found, "items": {"type": "string"}} if found == "array" else {"type": found}


def _type_of(default: ast.expr | None) -> str:
    if isinstance(default, ast.List | ast.Tuple):
        return "array"
    return TYPES.get(type(default.value), "string") if isinstance(default, ast.Constant) else "string"


def _call(module: str, name: str, number: int, tools: dict[str, Tool], words: list[str]) -> Call:
    drawn = random.Random(f"{module} {name} {number}")
    others = [other for other in tools if other != name]
    offered = [name, *drawn.sample(others, min(len(others), OFFERED - 1))]
    drawn.shuffle(offered)
    function = tools[name]["function"]
    arguments = _arguments(function["parameters"], drawn, words)
    values = " and ".join(f"{key} = {json.dumps(value)}" for key, value in arguments.items())
    what = function["description"]
    what = what if what[-1] in ".!?" else f"{what}."
    request = drawn.choice(REQUESTS).format(what=what, values=values)
    return Call(f"{name}.{number}", request, tuple(tools[one] for one in offered), name, arguments)


def _arguments(parameters: dict[str, Any], drawn: random.Random, words: list[str]) -> dict[str, Any]:
    """A value for each required parameter, and for some of the others; at least one."""
    properties, required = parameters["properties"], parameters["required"]
    optional = [name for name in properties if name not in required]
    room = max(0, ARGUMENTS - len(required))
    most = min(room, len(optional))
    taken = drawn.sample(optional, drawn.randint(0 if required else 1, most)) if most else []
    return {
        name: _value(schema["type"], drawn, words)
        for name, schema in properties.items()
        if name in required or name in taken
    }


def _value(kind: str, drawn: random.Random, words: list[str]) -> Any:
    if kind == "boolean":
        return drawn.random() < 0.5
    if kind == "integer":
        return drawn.randint(0, 200)
    if kind == "number":
        return drawn.randint(1, 400) / 4
    several = [drawn.choice(words) for _ in range(drawn.randint(1, 3))]
    return several if kind == "array" else " ".join(several)
