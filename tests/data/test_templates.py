"""Catches a well-known model's template that is refused, taught other words than the assistant's, or never to stop.

The templates are data of TRL's wheel; `python -m tests.chat_templates` prints what these tests ask as a table.
"""

import numpy as np
import pytest

from pipeline.data.chat import ChatEncoder
from pipeline.data.template import ChatTemplate
from pipeline.run.errors import UserError
from tests import chat_templates
from tests.chat_templates import CONVERSATIONS, TURNS, assistant, attempt, tokenizer_of, user

NO_TOOLS = {
    *("cohere", "cohere2", "deepseek_r1_distill", "deepseekv3", "gemma", "gemma3", "idefics3", "llama3"),
    *("llava_next", "phi3", "phi3_5", "qwen2_5_vl", "smolvlm"),
}
NO_CALLS = {*NO_TOOLS, "lfm2"}
NO_THINKING = {
    *NO_TOOLS,
    *("gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "lfm2", "lfm2_v2", "llama3_1", "llama3_2", "qwen2_5"),
    *("qwen3_instruct_2507", "qwen3_vl"),
}
# Which templates have no place for what a conversation holds; every other cell of the table must be written.
PLACELESS = {"tools": NO_TOOLS, "call": NO_CALLS, "thinking": NO_THINKING, "thinking, turns": NO_THINKING}
NAMES = chat_templates.names()


def test_the_table_has_every_template():
    assert len(NAMES) == 41


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_every_template_teaches_the_assistants_words_and_its_stop_token(conversation):
    messages, _, words = CONVERSATIONS[conversation]
    asked = [message["content"] for message in messages if message["role"] != "assistant"]
    for name in NAMES:
        found = attempt(name, conversation)
        if name in PLACELESS.get(conversation, ()):
            assert isinstance(found, str) and "the chat template" in found, (name, found)
            continue
        assert not isinstance(found, str), (name, found)
        taught = [text for _, spans in found for text in spans]
        template = ChatTemplate(tokenizer_of(name))
        assert all(word in "".join(taught) for word in words), (name, taught)
        assert not any(text in span for text in asked for span in taught), (name, taught)
        answers = sum(message["role"] == "assistant" for message in messages)
        assert len(taught) == answers, (name, taught)
        for span in taught:
            *_, last = template.control.finditer(span)
            assert last.end() == len(span), (name, span)


@pytest.mark.parametrize("name", NAMES)
def test_rows_begin_as_generation_is_prompted_where_the_template_lets_them(name):
    tokenizer = tokenizer_of(name)
    encoder = ChatEncoder(tokenizer)
    for layout in encoder.lay_out(TURNS):
        encoded = encoder.encode([layout])
        first = int(encoded.targets.argmax())
        prompts = [encoder.prompt_ids(TURNS[:count]) for count in (1, 3)]
        matched = any(encoded.ids[:first].tolist() == prompt for prompt in prompts)
        # Else the prompt ends in words of a thinking model that answers without thoughts do not follow, and it is said.
        noted = any("generation is prompted with" in note for note in encoder.template.notes)
        assert matched != noted, (encoder.template.notes, tokenizer.decode(encoded.ids[:first]))


# What TRL's patch of a template marks otherwise than ours, and why ours is right.
MARKED_OTHERWISE = {}


def taught_by_trl(name: str, messages) -> str:
    """The text that TRL's training template marks, of all rows that it would make of the conversation: one."""
    from transformers.utils.chat_template_utils import render_jinja_template

    tokenizer = tokenizer_of(name, training=True)
    texts, marks = render_jinja_template(
        [ChatTemplate(tokenizer)._shaped(messages)],
        chat_template=tokenizer.chat_template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    return "".join(texts[0][first:last] for first, last in marks[0])


def patched() -> list[str]:
    return [name for name in NAMES if (chat_templates.folder() / f"{name}_training.jinja").exists()]


def test_marks_of_trl():
    random = np.random.default_rng(0)
    words = "the sky is up and we go home when <b>it</b> \n rains 12 ünd so".split(" ")

    def said() -> str:
        return " ".join(random.choice(words, random.integers(1, 9))).strip() or "so"

    for number in range(300 // len(patched()) + 1):
        for name in patched():
            turns = [turn for _ in range(random.integers(1, 4)) for turn in (user(said()), assistant(said()))]
            encoder = ChatEncoder(tokenizer_of(name))
            ours = "".join(
                row.text[first:last]
                for row in (layout.rendered for layout in encoder.lay_out(turns))
                for first, last in row.spans
            )
            theirs = taught_by_trl(name, turns)
            if ours != theirs:
                print(name, repr(ours)[:200], repr(theirs)[:200])
                break
    assert 0
