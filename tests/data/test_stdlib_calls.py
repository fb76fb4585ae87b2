"""Catches tool data that teaches wrong calls: arguments that do not fit the schema, a request that says less."""

import json

import jsonschema
import pytest

from pipeline.data import sources, stdlib_calls
from pipeline.data.config import Chat
from pipeline.data.tools_as_text import tools_as_text

MODULE = '''
"""A module."""
def shorten(text, width: int, *, placeholder="[...]", keep=True, ratio=0.5, words=()):
    """Collapse the text. More of it."""
class Wrapper:
    def method(self):
        "Not offered."
def bare(): "It takes nothing."
def silent(text): pass
def _hidden(text): "Hidden."
def many(*texts, sep): "Joins the texts."
'''


def test_a_function_is_a_tool_with_the_types_that_its_signature_says():
    calls = stdlib_calls.calls_of(MODULE, "a.py")
    assert [call.name for call in calls] == ["shorten.0", "shorten.1", "many.0", "many.1"]
    tools = {tool["function"]["name"]: tool["function"] for tool in calls[0].tools}
    assert tools["shorten"] == {
        "name": "shorten",
        "description": "Collapse the text.",
        "parameters": {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "width": {"type": "integer"},
                "placeholder": {"type": "string"},
                "keep": {"type": "boolean"},
                "ratio": {"type": "number"},
                "words": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["text", "width"],
        },
    }
    assert tools["many"]["parameters"]["required"] == ["sep"]
    assert stdlib_calls.calls_of(MODULE, "a.py") == calls
    assert stdlib_calls.calls_of(MODULE, "b.py") != calls


def test_every_call_of_the_library_fits_its_schema_and_its_request_says_all_of_it():
    found = list(sources.conversations(Chat(source="stdlib_calls"), []))
    assert len(found) > 1_000
    assert len({row.key for row in found}) == len(found)
    for row in found:
        [call] = [one["function"] for one in row.messages[1]["tool_calls"]]
        [tool] = [one["function"] for one in row.tools if one["function"]["name"] == call["name"]]
        schema = tool["parameters"]
        jsonschema.validate(call["arguments"], schema)
        assert 1 <= len(call["arguments"]) and set(call["arguments"]) <= set(schema["properties"])
        assert tool["description"] in row.messages[0]["content"]
        for name, value in call["arguments"].items():
            assert f"{name} = {json.dumps(value)}" in row.messages[0]["content"]


TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def test_tools_calls_and_results_become_text_that_can_be_read_back():
    messages = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL, CALL], "weight": 2.0},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "Two."},
    ]
    system, user, call, result, answer = tools_as_text(messages, [TOOL])
    offered = system["content"].split("<tools>")[1].split("</tools>")[0]
    assert (system["role"], json.loads(offered)) == ("system", [TOOL["function"]])
    assert user == messages[0] and answer == messages[3]
    written = call["content"].removeprefix("<tool_call>").removesuffix("</tool_call>")
    assert json.loads(written) == [CALL["function"]] * 2
    assert (call["role"], call["weight"], "tool_calls" in call) == ("assistant", 2.0, False)
    assert result == {"role": "user", "content": "<tool_response>2</tool_response>"}


@pytest.mark.parametrize("system", ["Be brief.", None])
def test_tools_stand_behind_the_systems_own_words(system):
    before = [{"role": "system", "content": system}] if system else []
    [first, *rest] = tools_as_text([*before, {"role": "user", "content": "x"}], [TOOL])
    assert first["content"].startswith("Be brief.\n\nYou can" if system else "You can")
    assert len(rest) == 1
