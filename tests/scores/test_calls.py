"""Catches calls that count though they would fail, and calls that are not counted though they would run."""

import io

import pytest

from pipeline.data.chat import ChatEncoder
from pipeline.lm.calls import calls_in, fits
from pipeline.scores import calls
from pipeline.scores.calls import ToolCalls
from pipeline.scores.score import Settings
from tests.stages.tiny_model import make_tokenizer

ADD = {"name": "add", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('<tool_call>[{"name": "add", "arguments": {"a": 1}}]</tool_call>', [ADD]),
        ('<tool_call>\n{"name": "add", "parameters": {"a": 1}}\n</tool_call>', [ADD]),
        ('{"type": "function", "function": {"name": "add", "arguments": "{\\"a\\": 1}"}}', [ADD]),
        (
            'I use {it}: {"name": "add", "arguments": {"a": 1}} {"name": "add", "arguments": {"a": 1}}',
            [ADD, ADD],
        ),
        ('[{"name": "add", "arguments": {"a": 1}', []),  # it was cut off: the inner {"a": 1} names nothing
        ('{"name": "add"}', []),
        ('{"name": "add", "arguments": "{"}', []),
        ('{"name": 3, "arguments": {}}', []),
        ("[" * 2_000, []),
        ("", []),
    ],
)
def test_calls_are_read_from_what_a_model_wrote(text, found):
    assert calls_in(text) == found


TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a"],
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
    {
        "type": "function",
        "function": {"name": "stop", "parameters": {"type": "object", "additionalProperties": False}},
    },
)


@pytest.mark.parametrize(
    ("name", "arguments", "valid"),
    [
        ("add", {"a": 1}, True),
        ("add", {"a": 1, "b": 2}, True),
        ("add", {"a": "1"}, False),
        ("add", {"b": 2}, False),
        ("add", {"a": 1, "c": 2}, False),
        ("sub", {"a": 1}, False),
        ("now", {}, True),
        ("now", {"zone": "utc"}, True),
        ("stop", {}, True),
        ("stop", {"at": 1}, False),
    ],
)
def test_a_call_fits_a_tool_that_was_offered_and_its_schema(name, arguments, valid):
    assert fits({"name": name, "arguments": arguments}, TOOLS) is valid


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def row(key, content="Add.", arguments=None):
    function = {"name": "add", "arguments": {"a": 1} if arguments is None else arguments}
    answer = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
    return {"key": key, "messages": [{"role": "user", "content": content}, answer], "tools": TOOLS}


def part(tokenizer, rows, count, window=2_000):
    settings = Settings(0, window, False, 2, 100, io.StringIO())
    return ToolCalls(rows, ChatEncoder(tokenizer, unwritten="text"), count, settings)


def test_each_verdict_counts_answers(tokenizer, monkeypatch):
    """A right call in the wrong order of arguments is right; a valid one with another value is not."""
    written = iter(
        [
            '[{"name": "add", "arguments": {"a": 1}}]',
            '[{"name": "add", "arguments": {"a": 7}}]',
            '[{"name": "add", "arguments": {"a": "1"}}]',
            "I would add them.",
        ]
    )
    encode = tokenizer.backend_tokenizer.encode

    def answers(model, tokenizer, prompts, *settings):
        return [encode(next(written)).ids for _ in prompts]

    monkeypatch.setattr(calls, "sample_batch", answers)
    asked = part(tokenizer, [row(f"{i}") for i in range(4)], 4)
    measured = asked.measure(None, tokenizer)
    assert measured["read"] == [True, True, True, False]
    assert measured["valid"] == [True, True, False, False]
    assert measured["right"] == [True, False, False, False]
    values = {score.name: (score.value, score.count) for score in asked.scores({"base": measured})}
    assert values == {
        "tool calls right": (0.25, 4),
        "tool calls valid": (0.5, 4),
        "tool calls read": (0.75, 4),
    }
    assert all(
        score.interval[0] < score.value < score.interval[1] for score in asked.scores({"base": measured})
    )


def test_what_cannot_be_asked_is_said(tokenizer):
    rows = [row("0"), row("1", content="Add. " * 500), row("1", content="Add. " * 500)]
    asked = part(tokenizer, rows, 3, window=900)
    assert (asked.units, asked.held_out, asked.long) == (1, 2, 1)
    assert "1 of 3 answers are asked for: 1 have prompts too long for the window of 900" in asked.missing
    assert part(tokenizer, rows[:1], 3).missing == "only 1 of 3 answers that call are held out"
    assert part(tokenizer, rows[:1], 1).missing == ""


def test_tools_whose_parameters_are_no_json_schema_are_left_out_and_said(tokenizer):
    """As some data sets have them; a validator that is given one raises, which would end the evaluation."""
    odd = {"type": "function", "function": {"name": "odd", "parameters": {"type": "dict", "properties": {}}}}
    asked = part(tokenizer, [row("0"), row("1") | {"tools": [*TOOLS, odd]}], 2)
    assert (asked.units, asked.untyped) == (1, 1)
    assert "1 come with tools whose parameters are no JSON schema" in asked.missing


def test_a_model_is_asked_with_the_prompt_of_training(tokenizer):
    asked = part(tokenizer, [row("0")], 1)
    encoder = ChatEncoder(tokenizer, unwritten="text")
    [layout] = encoder.lay_out(row("0")["messages"], TOOLS)
    encoded = encoder.encode([layout])
    taught = encoded.targets.argmax()
    assert asked.asked[0].prompt == encoded.ids[:taught].tolist()
