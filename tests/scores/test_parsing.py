"""Catches prompts that training has not seen the like of, and samples that depend on the batch they are drawn in."""

import io

import pytest

from pipeline.data.functions import Function
from pipeline.scores import parsing
from pipeline.scores.parsing import ParsedFunctions, prompt_of, real_body
from pipeline.scores.score import Settings
from tests.stages.tiny_model import make_model, make_tokenizer

FUNCTION = Function("import os\n\n\n", "def f(x):\n", "    return x\n\n\ntext = 'the end <|end|> of it'\n")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def measured(tokenizer, batch_size, seed=0, window=40):
    rows = [{"key": str(i), "text": "".join(FUNCTION)} for i in range(5)]
    settings = Settings(seed, window, False, batch_size, 100, io.StringIO())
    return ParsedFunctions(rows, 5, settings).measure(make_model(0), tokenizer)


def test_a_prompt_is_the_document_up_to_the_header_from_its_opening_token_on(tokenizer):
    ids = prompt_of(tokenizer, FUNCTION, 60)
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == FUNCTION.before + FUNCTION.header


def test_a_long_prompt_keeps_its_end(tokenizer):
    whole = prompt_of(tokenizer, FUNCTION, 60)
    assert prompt_of(tokenizer, FUNCTION, 8) == whole[-8:]
    longer = FUNCTION._replace(before="x = 1\n" * 1000)
    assert prompt_of(tokenizer, longer, 30)[-9:] == whole[-9:]
    assert len(prompt_of(tokenizer, longer, 30)) == 30


def test_the_real_body_is_the_text_and_its_control_tokens_are_characters(tokenizer):
    assert real_body(tokenizer, FUNCTION, 99) == FUNCTION.after
    part = real_body(tokenizer, FUNCTION, 6)
    assert FUNCTION.after.startswith(part) and 6 <= len(part) < len(FUNCTION.after)


def test_the_same_prompt_is_written_on_in_different_ways_and_the_same_in_any_batch(tokenizer):
    written = measured(tokenizer, batch_size=5)["written"]
    assert len(set(written)) == 5
    assert measured(tokenizer, batch_size=2)["written"] == written
    assert measured(tokenizer, batch_size=5, seed=1)["written"] != written


def test_prompt_and_body_share_the_window(tokenizer, monkeypatch):
    asked = []

    def spy(model, tokenizer, prompts, max_new_tokens, *settings):
        asked.extend((len(prompt), max_new_tokens) for prompt in prompts)
        return [[] for _ in prompts]

    monkeypatch.setattr(parsing, "sample_batch", spy)
    verdicts = measured(tokenizer, batch_size=5, window=12)
    assert asked == [(6, 6)] * 5
    assert verdicts["accepted"] == [False] * 5  # a header alone is no function
    measured(tokenizer, batch_size=5, window=1000)
    assert {tokens for _, tokens in asked[5:]} == {parsing.TOKENS}
